"""Swaps of two channels of different groups on a device: the table stays there, what comes back is a number a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparselab.ops.backend import Ints

if TYPE_CHECKING:
    from sparselab.ops.cuda.handle import CudaHandle


class CudaSwaps:
    """``sparselab.ops.backend.Swaps``: the same swaps as ``sparselab.ops.swaps.TableSwaps``.

    To take the best swap, then the best of what is left, is to take every swap that is the best of both its groups, and
    then the same among the groups that are left: no better one can come between (locally dominant edges: Preis, STACS
    1999). So a round needs one number a group, and there are a few rounds.
    """

    def __init__(self, handle: CudaHandle, order: Ints, slots: Ints) -> None:
        self._handle, self._slots, self._order = handle, slots, order.copy()
        self._channels = order[slots]
        self._column = np.arange(len(slots))
        self._table = handle.table_on_device(order, slots, self._channels)
        self.values = handle.group_table(self._channels.reshape(-1, handle.m))

    def best(self, share: float, least: float) -> Ints:
        """See ``Swaps``."""
        m, free = self._handle.m, np.ones(len(self.values), bool)
        chosen: list[Ints] = []
        column, values = self._handle.indices(self._column), self._handle.upload(self.values)
        floor = None
        while True:
            gain, pair = self._handle.best_swaps(self._table, column, values, free)
            floor = max(float(gain.max(initial=0.0)) * share, least) if floor is None else floor
            wanted = np.flatnonzero(free & (gain > floor))
            ends = np.column_stack(np.divmod(pair[wanted], len(self._slots)))
            one, two = ends.T // m
            mutual = (pair[one] == pair[two]) & (one == wanted)
            if not mutual.any():
                return np.concatenate(chosen) if chosen else np.empty((0, 2), np.int64)
            chosen.append(ends[mutual])
            free[one[mutual]] = free[two[mutual]] = False

    def make(self, pairs: Ints) -> Ints:
        """See ``Swaps``."""
        m = self._handle.m
        one, two = pairs.T
        self._column[one], self._column[two] = self._column[two], self._column[one]
        self._order[self._slots] = self._channels[self._column]
        touched = np.unique(pairs // m)
        stale = (touched[:, None] * m + np.arange(m)).ravel()
        self._handle.refresh_rows(self._table, stale, self._order, self._slots[stale], self._channels)
        self.values[touched] = self._handle.group_table(self._order[self._slots[stale]].reshape(-1, m))
        return self._order
