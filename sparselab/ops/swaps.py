"""Swaps of two channels of different groups, from the table that holds them all, for any matrix."""

from __future__ import annotations

import numpy as np

from sparselab.ops.jit import jit
from sparselab.ops.matrix import Doubles, Floats, Ints, LoadedMatrix

_TILE = 64  # rows and columns of a table that are looked at together, so that both ways of a swap are in the cache


class TableSwaps:
    """``sparselab.ops.matrix.Swaps`` on ``matrix.table``.

    Takes 4 bytes per pair of slots, and for a moment as much again.
    """

    def __init__(self, matrix: LoadedMatrix, order: Ints, slots: Ints) -> None:
        self._matrix, self._slots, self._order = matrix, slots, order.copy()
        self._channels = order[slots]  # the table's columns stay with the channels, wherever they go
        self._column = np.arange(len(slots))  # ... so this is which column sits in which slot now
        self._group = self._column // matrix.m
        self._table = matrix.table(order, slots, self._channels)
        self.values = matrix.group_table(self._channels.reshape(-1, matrix.m))

    def best(self, share: float, least: float) -> Ints:
        """See ``Swaps``."""
        placed = self._table[:, self._column]
        placed -= self.values[self._group, None].astype(np.float32)
        first, second, gains = _gaining(placed, self._matrix.m, np.float32(max(least, 0.0)))
        wanted = np.flatnonzero(gains > float(gains.max(initial=0.0)) * share)
        ranked = wanted[np.lexsort((second[wanted], first[wanted], -gains[wanted]))]
        return self._disjoint(first[ranked], second[ranked])

    def _disjoint(self, first: Ints, second: Ints) -> Ints:
        """Those of the ranked swaps that touch no group which a better one touched."""
        free = np.ones(len(self.values), bool)
        chosen = []
        for one, two in zip(first.tolist(), second.tolist()):
            if free[self._group[one]] and free[self._group[two]]:
                free[self._group[one]] = free[self._group[two]] = False
                chosen.append((one, two))
        return np.array(chosen, np.int64).reshape(-1, 2)

    def make(self, pairs: Ints) -> Ints:
        """See ``Swaps``."""
        m = self._matrix.m
        one, two = pairs.T
        self._column[one], self._column[two] = self._column[two], self._column[one]
        self._order[self._slots] = self._channels[self._column]
        touched = np.unique(self._group[pairs])
        stale = (touched[:, None] * m + np.arange(m)).ravel()
        self._table[stale] = self._matrix.table(self._order, self._slots[stale], self._channels)
        self.values[touched] = self._matrix.group_table(self._order[self._slots[stale]].reshape(-1, m))
        return self._order


def annealed(matrix: LoadedMatrix, order: Ints, cooling: Doubles, seed: int) -> Ints:
    """``order`` after one swap at each temperature of ``cooling``, or the best that was met; two groups are counted each time."""
    rng = np.random.default_rng(seed)
    groups = order.reshape(-1, matrix.m).copy()
    worth = matrix.group_table(groups)
    best, best_value = order.copy(), worth.sum()
    for temperature in cooling:
        (one, two), (i, j) = rng.integers(len(groups), size=2), rng.integers(matrix.m, size=2)
        if one == two:
            continue
        swapped = groups[[one, two]]
        swapped[0, i], swapped[1, j] = swapped[1, j], swapped[0, i]
        now = matrix.group_table(swapped)
        if now.sum() - worth[one] - worth[two] > -temperature * rng.exponential():
            groups[[one, two]], worth[[one, two]] = swapped, now
            if worth.sum() > best_value:
                best, best_value = groups.ravel().copy(), worth.sum()
    return best


@jit
def _gaining(placed: Floats, m: int, least: np.float32) -> tuple[Ints, Ints, Floats]:
    """Every swap of slots of different groups that gains more than ``least``: its slots, and the gain.

    The gain is ``placed[s, t] + placed[t, s]``.
    """
    size, first, second, gains = len(placed), [np.int64(0)], [np.int64(0)], [np.float32(0)]
    for top in range(0, size, _TILE):
        for left in range(top, size, _TILE):
            for s in range(top, min(top + _TILE, size)):
                for t in range(max(left, (s // m + 1) * m), min(left + _TILE, size)):
                    gain = placed[s, t] + placed[t, s]
                    if gain > least:
                        first.append(np.int64(s))
                        second.append(np.int64(t))
                        gains.append(gain)
    return np.array(first[1:], np.int64), np.array(second[1:], np.int64), np.array(gains[1:], np.float32)
