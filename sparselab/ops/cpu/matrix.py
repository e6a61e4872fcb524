"""A saliency matrix resident in memory, and the primitives on it."""

from __future__ import annotations

from functools import cached_property
from math import comb

import numpy as np

from sparselab.ops.cpu import annealing, partitions, pricing, tables
from sparselab.ops.cpu.differences import Bytes, Sums, product, quantised
from sparselab.ops.matrix import Doubles, Floats, Ints, distinct, power_of_two, resident
from sparselab.ops.swaps import TableSwaps
from sparselab.ops.threads import map_blocks, row_blocks, thread_count

Gaining = tuple[Ints, pricing.Gains, float]  # groups, what they gain, and the most that any other gains

_SLOTS = 64  # slots of a table that one thread computes at once
_SETS = 128  # sets of groups that one thread partitions at once
_KNOWN = 2**20  # groups whose value is kept: all of 70 channels at M = 4
_GROUPS = 256  # groups that one thread scores at once
_THIRDS = 16  # the share of the groups asked for that may have one and the same third channel
_EXCHANGED = 1024  # prefixes that one thread completes at once


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

    def best_groups(self, charges: Doubles, count: int, exactly: bool) -> tuple[Ints, float]:
        """See ``sparselab.permutation.pricing.SweepsGroups``."""
        paid = None if exactly else self._paid(charges)
        if paid is None and not exactly:
            return np.empty((0, pricing.M), np.int64), np.inf
        pairs = np.column_stack(np.tril_indices(self.channels, -1)[::-1])  # by their second
        size = max(2, count // _THIRDS)

        def sweep(third: int) -> Gaining:
            begun = third * (third - 1) // 2
            prefixes = np.column_stack([pairs[:begun], np.full(begun, third)])
            if paid is None:
                return self._gaining_exactly(charges, prefixes, size)
            return self._gaining(paid, prefixes, True, size)

        swept = map_blocks(sweep, range(2, self.channels - 1))
        groups, gains = np.concatenate([each[0] for each in swept]), np.concatenate([each[1] for each in swept])
        most = max(each[2] for each in swept)
        if len(gains) > count:
            most = max(most, -np.partition(-gains, count)[count])
        return groups[gains > most], float(most) / (1 if exactly else self._bytes[1])

    def best_exchanges(self, charges: Doubles, groups: Ints, count: int) -> Ints:
        """See ``sparselab.permutation.pricing.SweepsGroups``."""
        paid = self._paid(charges)
        if paid is None:
            return groups[:0]
        prefixes = np.sort(np.concatenate([np.delete(groups, k, axis=1) for k in range(pricing.M)]), axis=1)
        prefixes = prefixes[distinct(prefixes, self.channels)]

        def complete(block: slice) -> Gaining:
            return self._gaining(paid, prefixes[block], False, 2 * count)  # the best half always stays

        completed = map_blocks(complete, row_blocks(len(prefixes), _EXCHANGED))
        found = np.sort(np.concatenate([each[0] for each in completed]), axis=1)
        gains = np.concatenate([each[1] for each in completed])
        met = distinct(found, self.channels)
        return found[met[np.argsort(-gains[met], kind="stable")[:count]]]

    def _paid(self, charges: Doubles) -> Sums | None:
        """``charges`` as integers, less what scores exceed their bytes by, so that no group is told too little.

        ``None`` where they are too large.
        """
        floored = np.floor((charges - self._exceeded) * (self._bytes[1] / 2))
        return floored.astype(np.int32) if float(np.abs(floored).max()) <= pricing.MOST else None  # NaN fails too

    @cached_property
    def _exceeded(self) -> Doubles:
        """What the scores of each channel exceed their bytes by."""
        scores, unit = self._bytes
        known = scores[:, : self.rows].astype(np.float64) / (unit / 2)
        exceeded: Doubles = np.maximum(self._values - known, 0).sum(axis=1)
        return exceeded

    @cached_property
    def _apart(self) -> Sums:
        """The differences of all pairs of channels, and in the last column their sums."""
        scores, _ = self._bytes
        apart = np.empty((self.channels, self.channels), np.int32)
        product(scores, scores, apart)
        return np.column_stack([apart, scores.sum(axis=1, dtype=np.int32)])

    def _gaining(self, paid: Sums, prefixes: Ints, rising: bool, size: int) -> Gaining:
        groups, gains = np.empty((size, pricing.M), np.int64), np.empty(size, np.int32)
        held, most = pricing.gaining(self._bytes[0], self._apart, paid, self.n, prefixes, rising, groups, gains)
        return groups[:held].copy(), gains[:held].copy(), most

    def _gaining_exactly(self, charges: Doubles, prefixes: Ints, size: int) -> Gaining:
        groups, gains = np.empty((size, pricing.M), np.int64), np.empty(size)
        held, most = pricing.gaining_exactly(self._values, charges, self.n, prefixes, groups, gains)
        return groups[:held].copy(), gains[:held].copy(), most

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
