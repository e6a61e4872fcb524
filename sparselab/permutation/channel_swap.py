"""Greedy channel swaps with bounded regressions: the baseline of the paper, after TETRIS.

Pool and Yu, "Channel Permutations for N:M Sparsity" (NeurIPS 2021), section 3; Ji et al., "TETRIS" (NeurIPS 2018).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparselab.permutation.option_checks import require_at_least
from sparselab.permutation.problem import Order
from sparselab.permutation.strategy import Search

WINDOW = 2048  # channels whose swaps are held at once: some 150 MiB
_THRESHOLD = 1e-5  # relative to the best gain of a sweep: smaller gains wait for a later one
_ROUNDING = 1e-6  # relative to the mean group: a smaller gain is rounding


@dataclass(frozen=True)
class ChannelSwap:
    """Make the best swap of two channels, then the next best between untouched groups, until none gains.

    Converged, make one random swap and go on, ``escapes`` times. The best order met is kept. Above 2048 channels the
    swaps are looked for inside random windows of 2048 channels, drawn again until a whole round of them gains nothing.
    """

    escapes: int = 0

    def __post_init__(self) -> None:
        require_at_least(0, "channel_swap", escapes=self.escapes)

    def __call__(self, search: Search) -> None:
        """Descend, escape, descend ..."""
        order = search.best.copy()
        improved = True
        while improved and search.running():
            improved = False
            for slots in _windows(search):
                if search.running():
                    improved |= _descend(search, order, slots, self.escapes)
            improved &= search.matrix.channels > WINDOW

    def toy(self) -> ChannelSwap:
        """See ``OffersToy``: an escape at most."""
        return replace(self, escapes=min(self.escapes, 1))


def _windows(search: Search) -> list[NDArray[np.int64]]:
    """The slots of random sets of whole groups, at most ``WINDOW`` slots each; all of them where they fit."""
    m = search.matrix.m
    count = -(-search.matrix.channels // WINDOW)
    groups = np.arange(search.groups) if count == 1 else search.rng.permutation(search.groups)
    return [(np.sort(part)[:, None] * m + np.arange(m)).ravel() for part in np.array_split(groups, count)]


def _descend(search: Search, order: Order, slots: NDArray[np.int64], escapes: int) -> bool:
    """Greedy swaps within ``slots`` to convergence, in place; whether any gained."""
    m = search.matrix.m
    swaps = search.matrix.swaps(order, slots)
    least = _ROUNDING * float(swaps.values.mean())
    start, total, risen = search.value, float(swaps.values.sum()), True
    while search.running():
        search.evaluations += 1
        pairs = swaps.best(_THRESHOLD, least)
        # Gains that only sums of float32 have (8e-6 off, at many equal scores) would be swapped for ever.
        escaping = not len(pairs) or not risen
        if escaping:
            if not escapes:
                break
            escapes -= 1
            one = int(search.rng.integers(len(slots)))
            after = (one // m + 1) * m  # the other groups' slots, around the end
            pairs = np.array([[one, (after + int(search.rng.integers(len(slots) - m))) % len(slots)]])
        order[:] = swaps.make(pairs)
        before, total = total, float(swaps.values.sum())
        risen = escaping or total > before
        search.offer(order, total if len(slots) == search.matrix.channels else None)
    return search.value > start
