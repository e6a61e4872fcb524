"""Swaps of two channels of different groups, from the table that holds them all: in numpy, for any matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.matrix import Ints, LoadedMatrix


class TableSwaps:
    """``sparselab.ops.matrix.Swaps`` on ``matrix.table``.

    Takes 4 bytes per pair of slots, and for a moment some five times that.
    """

    def __init__(self, matrix: LoadedMatrix, order: Ints, slots: Ints) -> None:
        self._matrix, self._slots, self._order = matrix, slots, order.copy()
        self._channels = order[slots]  # the table's columns stay with the channels, wherever they go
        self._column = np.arange(len(slots))  # ... so this is which column sits in which slot now
        self._group = self._column // matrix.m
        self._table = matrix.table(order, slots, self._channels)
        self.values = matrix.group_table(self._channels.reshape(-1, matrix.m))
        first, second = np.triu_indices(len(slots), 1)
        apart = self._group[first] != self._group[second]
        self._first, self._second = first[apart].astype(np.int32), second[apart].astype(np.int32)

    def best(self, share: float, least: float) -> Ints:
        """See ``Swaps``."""
        placed = self._table[:, self._column]
        placed -= self.values[self._group, None].astype(np.float32)
        gains = (placed + placed.T)[self._first, self._second]
        wanted = np.flatnonzero(gains > max(float(gains.max(initial=0.0)) * share, least))
        return self._disjoint(wanted[np.argsort(-gains[wanted], kind="stable")])

    def _disjoint(self, ranked: NDArray[np.int64]) -> Ints:
        """Those of the ``ranked`` swaps that touch no group which a better one touched."""
        free = np.ones(len(self.values), bool)
        chosen = []
        for one, two in zip(self._first[ranked].tolist(), self._second[ranked].tolist()):
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
