"""A saliency matrix resident in memory, and the primitives on it."""

from __future__ import annotations

from functools import cached_property
from math import comb

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.cpu import annealing, partitions, pricing, tables
from sparselab.ops.cpu.differences import Bytes, quantised
from sparselab.ops.matrix import Doubles, Floats, Ints, power_of_two, resident
from sparselab.ops.swaps import TableSwaps
from sparselab.ops.threads import map_blocks, row_blocks, thread_count

_SLOTS = 64  # slots of a table that one thread computes at once
_SETS = 128  # sets of groups that one thread partitions at once
_KNOWN = 2**20  # groups whose value is kept: all of 70 channels at M = 4
_GROUPS = 256  # groups that one thread scores at once


def load(values: Floats, n: int, m: int) -> CpuMatrix:
    """Load ``values``, ``(channels, rows)``; the scores are copied once, as float32."""
    return CpuMatrix(values, n, m)


class CpuMatrix:
    """The primitives of ``sparselab.ops.matrix.LoadedMatrix`` in numba. Safe to use from several threads at once.

    Holds 4 bytes per score, and 1 more once something anneals; a table adds 12 bytes per entry and some boundaries.
    Annealing runs on scores cut to 8 bits (``differences.quantised``): its noise hides the rounding, which is far below
    the temperatures that do anything.
    """

    overhead = 0.0

    def __init__(self, values: Floats, n: int, m: int) -> None:
        self.scale = power_of_two(values)
        self._values = resident(values, self.scale)
        self.channels, self.rows = values.shape
        self.n, self.m = n, m
        self._asked = 0

    @property
    def side_by_side(self) -> int:
        """See ``LoadedMatrix``: one chain per thread."""
        return thread_count()

    def retained(self, order: Ints) -> float:
        """See ``LoadedMatrix``."""
        return float(self.group_table(order.reshape(-1, self.m)).sum())

    def channel_sums(self) -> Doubles:
        """See ``LoadedMatrix``."""
        sums: Doubles = self._values.sum(axis=1, dtype=np.float64)
        return sums

    def group_table(self, groups: Ints) -> Doubles:
        """See ``LoadedMatrix``."""
        groups = np.ascontiguousarray(groups, np.int64)
        out = np.zeros(len(groups))

        def score(block: slice) -> None:
            tables.group_values(self._values, groups[block], self.n, out[block])

        map_blocks(score, row_blocks(len(groups), max(_GROUPS, 2**18 // max(1, self.rows))))
        return out

    @cached_property
    def _all_groups(self) -> Doubles:
        """What every group retains; empty where there are too many groups to keep."""
        count = comb(self.channels, self.m) if self.m <= 4 else 0
        known = np.empty(count if count <= _KNOWN else 0)

        def score(block: slice) -> None:
            partitions.score_groups(self._values, self._binomials, self.n, block.start, known[block])

        map_blocks(score, row_blocks(len(known), 2**15))
        return known

    @cached_property
    def _binomials(self) -> Ints:
        return partitions.binomials(self.channels, self.m)

    def best_partitions(self, order: Ints, sets: Ints, subsets: Ints, parts: Ints) -> tuple[Doubles, Ints]:
        """See ``LoadedMatrix``."""
        gains, dealt = np.empty(len(sets)), np.empty((len(sets), sets.shape[1] * self.m), np.int64)
        columns = np.ascontiguousarray(parts.T, np.uint32)
        # Scoring every group once pays when the sets ask for about as many: three groups do, two do not.
        self._asked += len(sets) * len(subsets)
        known = self._all_groups if 2 * self._asked >= comb(self.channels, self.m) else np.empty(0)

        def solve(block: slice) -> None:
            partitions.best_partitions(
                self._values,
                order,
                sets[block],
                subsets,
                columns,
                self.n,
                self._binomials,
                known,
                gains[block],
                dealt[block],
            )

        map_blocks(solve, row_blocks(len(sets), _SETS))
        return gains, dealt

    def table(self, order: Ints, slots: Ints, channels: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        columns = self._values if _is_range(channels, self.channels) else self._values[channels]
        groups = order.reshape(-1, self.m)[slots // self.m]
        return self._complete(groups, slots % self.m, columns)

    def completions(self, prefixes: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        return self._complete(prefixes, np.full(len(prefixes), -1), self._values)

    def _complete(self, groups: Ints, skipped: Ints, columns: Floats) -> Floats:
        """What each of ``groups``, without its member ``skipped``, retains with each of ``columns``."""
        out = np.empty((len(groups), len(columns)), np.float32)

        def fill(block: slice) -> None:
            count = len(groups[block])
            bounds, base = np.empty((count, self.rows), np.float32), np.empty(count)
            tables.boundaries(self._values, groups[block], skipped[block], self.n, bounds, base)
            part = np.zeros((count, len(columns)))
            for start in range(0, self.rows, tables.BLOCK):
                tables.sum_of_maxima(bounds, columns, start, min(start + tables.BLOCK, self.rows), part)
            out[block] = part + base[:, None]

        map_blocks(fill, row_blocks(len(groups), _SLOTS))
        return out

    def swaps(self, order: Ints, slots: Ints) -> TableSwaps:
        """See ``LoadedMatrix``."""
        return TableSwaps(self, order, slots)

    @cached_property
    def _bytes(self) -> tuple[Bytes, float]:
        """The scores as bytes, and how many differences one unit of ``retained`` is."""
        scores, levels = quantised(self._values)
        return scores, 2.0 * levels

    def most_gains(self, charges: Doubles) -> Doubles:
        """For each channel what no group of four with it exceeds: retained saliency less the ``charges`` of its channels.

        Groups are scored by their bytes. What the scores exceed them by is taken off the charges, so that the rounding
        never makes it too little; infinite where charges are too large for its integers. For up to 2^16 rows.
        """
        scores, unit = self._bytes
        levels = unit / 2
        known = scores[:, : self.rows].astype(np.float64) / levels
        exceeded = np.maximum(self._values - known, 0).sum(axis=1)
        floored = np.floor((charges - exceeded) * levels)
        if not float(np.abs(floored).max()) <= pricing.MOST:  # NaN fails too
            return np.full(self.channels, np.inf)
        paid = floored.astype(np.int32)

        def sweep(first: int) -> NDArray[np.int32]:
            best = np.full(self.channels, pricing.LOWEST, np.int32)
            pricing.best_groups(scores, paid, self.n, first, best)
            return best

        best = np.max(map_blocks(sweep, range(self.channels - pricing.M + 1)), axis=0)
        gains: Doubles = best / unit
        return gains

    def anneal(self, orders: Ints, steps: int, hot: float, cold: float, seeds: Ints) -> Ints:
        """See ``LoadedMatrix``."""
        scores, unit = self._bytes
        groups = np.arange(self.channels // self.m)

        def run(chain: int) -> Ints:
            order: Ints = orders[chain].copy()
            annealing.swap(scores, order, groups, self.n, self.m, steps, hot * unit, cold * unit, seeds[chain])
            return order

        return np.stack(map_blocks(run, range(len(orders))))

    def assign(self, orders: Ints, noise: Doubles, seeds: Ints) -> Ints:
        """See ``LoadedMatrix``."""
        scores, unit = self._bytes
        groups = np.arange(self.channels // self.m)

        def run(chain: int) -> Ints:
            order: Ints = orders[chain].copy()
            annealing.deal(scores, order, groups, self.n, self.m, noise * unit, seeds[chain])
            return order

        return np.stack(map_blocks(run, range(len(orders))))


def _is_range(index: Ints, size: int) -> bool:
    return len(index) == size and bool((index == np.arange(size)).all())
