"""Swaps of two channels of different groups on a device: the table stays there, one number per group comes back."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.matrix import Doubles, Floats, Ints


class SwapTables(Protocol):
    """What swaps ask of a matrix on a device: a table of them that stays there, and the best ones in it."""

    m: int

    def group_table(self, groups: Ints) -> Doubles:
        """See ``LoadedMatrix``."""

    def table_on_device(self, order: Ints, slots: Ints, channels: Ints) -> Any:
        """``LoadedMatrix.table``, left on the device."""

    def refresh_rows(self, table: Any, places: Ints, order: Ints, slots: Ints, channels: Ints) -> None:
        """``table[places] = table(order, slots, channels)`` on the device."""

    def best_swaps(self, table: Any, column: Any, values: Any, free: NDArray[np.bool_]) -> tuple[Floats, Ints]:
        """For each group, its best swap with a group that is also free.

        Returns what each swap gains, and its two places as one number.
        """

    def indices(self, array: Ints) -> Any:
        """Slots, channels or groups on the device, where they are int32."""

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy on the device."""


class CudaSwaps:
    """``sparselab.ops.matrix.Swaps``: the same swaps as ``sparselab.ops.swaps.TableSwaps``.

    To take the best swap, then the best of what is left, is to take every swap that is the best of
    both its groups, and then the same among the groups that are left: no better one can come
    between (locally dominant edges: Preis, STACS 1999). So a round needs one number per group, and
    there are a few rounds.
    """

    def __init__(self, matrix: SwapTables, order: Ints, slots: Ints) -> None:
        self._matrix, self._slots, self._order = matrix, slots, order.copy()
        self._channels = order[slots]
        self._column = np.arange(len(slots))
        self._table = matrix.table_on_device(order, slots, self._channels)
        self.values = matrix.group_table(self._channels.reshape(-1, matrix.m))

    def best(self, share: float, least: float) -> Ints:
        """See ``Swaps``."""
        m, free = self._matrix.m, np.ones(len(self.values), bool)
        chosen: list[Ints] = []
        column, values = self._matrix.indices(self._column), self._matrix.upload(self.values)
        floor = None
        while True:
            gain, pair = self._matrix.best_swaps(self._table, column, values, free)
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
        m = self._matrix.m
        one, two = pairs.T
        self._column[one], self._column[two] = self._column[two], self._column[one]
        self._order[self._slots] = self._channels[self._column]
        touched = np.unique(pairs // m)
        stale = (touched[:, None] * m + np.arange(m)).ravel()
        self._matrix.refresh_rows(self._table, stale, self._order, self._slots[stale], self._channels)
        self.values[touched] = self._matrix.group_table(self._order[self._slots[stale]].reshape(-1, m))
        return self._order
