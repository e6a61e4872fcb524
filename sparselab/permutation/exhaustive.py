"""The proven optimum of few channels, by dynamic programming over subsets."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sparselab.ops.matrix import Doubles, Ints
from sparselab.permutation.strategy import Search

MAX_CHANNELS = 16


@dataclass(frozen=True)
class Exhaustive:
    """Every order, in effect: refuses more than 16 channels.

    The 2,627,625 partitions of 16 channels into groups of 4 share 1,820 groups, and what is best for the channels that
    are left does not depend on how the others were grouped: 8,275 sets of channels are solved once each.
    """

    def __call__(self, search: Search) -> None:
        """Score every group once, then solve."""
        channels, m = search.matrix.channels, search.matrix.m
        if channels > MAX_CHANNELS:
            raise ValueError(
                f"strategy 'exhaustive' takes up to {MAX_CHANNELS} channels, got {channels}: 'optimal' proves up to 64, "
                "'auto' finds good orders of any number"
            )
        groups = np.array(list(combinations(range(channels), m)), np.int64)
        values = search.matrix.group_table(groups)
        search.evaluations += len(groups)
        order, value = _best_cover(groups, values, channels)
        search.offer(order)
        search.prove(value)

    def toy(self) -> Exhaustive:
        """See ``OffersToy``."""
        return self


def _best_cover(groups: Ints, values: Doubles, channels: int) -> tuple[Ints, float]:
    from sparselab.ops.cpu.subsets import solve

    masks = (1 << groups).sum(axis=1)
    worth, chosen = solve(masks, values, channels)
    order: list[int] = []
    left = (1 << channels) - 1
    while left:
        group = groups[chosen[left]]
        order += group.tolist()
        left &= ~int(masks[chosen[left]])
    return np.array(order, np.int64), float(worth[(1 << channels) - 1])
