"""Greedy channel swaps with bounded regressions: the baseline of the paper, after TETRIS.

Pool and Yu, "Channel Permutations for N:M Sparsity" (NeurIPS 2021), section 3; Ji et al., "TETRIS" (NeurIPS 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        if self.escapes < 0:
            raise ValueError(f"strategy 'channel_swap': escapes must not be negative, got {self.escapes}")

    def __call__(self, search: Search) -> None:
        """Descend, escape, descend ..."""
        order = search.best.copy()
        improved = True
        while improved and search.running():
            improved = False
            for slots in _windows(search):
                improved |= _descend(search, order, slots, self.escapes)
            improved &= search.handle.channels > WINDOW


def _windows(search: Search) -> list[NDArray[np.int64]]:
    """The slots of random sets of whole groups, at most ``WINDOW`` slots each; all of them where they fit."""
    m = search.handle.m
    count = -(-search.handle.channels // WINDOW)
    groups = np.arange(search.groups) if count == 1 else search.rng.permutation(search.groups)
    return [(np.sort(part)[:, None] * m + np.arange(m)).ravel() for part in np.array_split(groups, count)]


def _descend(search: Search, order: Order, slots: NDArray[np.int64], escapes: int) -> bool:
    """Greedy swaps within ``slots`` to convergence, in place; whether any gained."""
    handle, m = search.handle, search.handle.m
    channels = order[slots]  # the table's columns stay with the channels, wherever they go
    column = np.arange(len(slots))  # ... so this is which column sits in which slot now
    group = column // m
    table = handle.table(order, slots, channels)
    value = handle.group_table(order[slots].reshape(-1, m))
    least = _ROUNDING * float(value.mean())
    first, second = np.triu_indices(len(slots), 1)
    apart = group[first] != group[second]
    first, second = first[apart].astype(np.int32), second[apart].astype(np.int32)
    start = search.value
    while search.running():
        search.evaluations += 1
        placed = table[:, column]
        placed -= value[group, None].astype(np.float32)
        gains = (placed + placed.T)[first, second]
        best = float(gains.max())
        wanted = np.flatnonzero(gains > max(best * _THRESHOLD, least))
        if len(wanted):
            swaps = _disjoint(wanted[np.argsort(-gains[wanted], kind="stable")], first, second, group)
        elif escapes > 0:
            escapes -= 1
            swaps = [int(search.rng.integers(len(gains)))]
        else:
            break
        one, two = first[swaps], second[swaps]
        column[one], column[two] = column[two], column[one]
        order[slots] = channels[column]
        touched = np.unique(np.concatenate([group[one], group[two]]))
        stale = (touched[:, None] * m + np.arange(m)).ravel()
        table[stale] = handle.table(order, slots[stale], channels)
        value[touched] = handle.group_table(order[slots[stale]].reshape(-1, m))
        if len(slots) == handle.channels:
            search.offer(order, float(value.sum()))
        else:
            search.offer(order)
    return search.value > start


def _disjoint(
    ranked: NDArray[np.int64], first: NDArray[np.int32], second: NDArray[np.int32], group: NDArray[np.int64]
) -> list[int]:
    """Those of the ``ranked`` swaps that touch no group which a better one touched."""
    free = np.ones(int(group[-1]) + 1, bool)
    chosen = []
    for swap in ranked:
        one, two = group[first[swap]], group[second[swap]]
        if free[one] and free[two]:
            free[one] = free[two] = False
            chosen.append(int(swap))
    return chosen
