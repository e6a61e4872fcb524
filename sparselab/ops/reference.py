"""Every primitive in plain numpy and float64: slow, obvious, and what the other backends are tested against."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from sparselab.ops.matrix import Doubles, Floats, Ints
from sparselab.ops.swaps import TableSwaps


def load(values: Floats, n: int, m: int) -> ReferenceMatrix:
    """Load ``values``, ``(channels, rows)``."""
    return ReferenceMatrix(values, n, m)


class ReferenceMatrix:
    """The primitives of ``sparselab.ops.matrix.LoadedMatrix``, each as its definition."""

    scale = 1.0

    def __init__(self, values: Floats, n: int, m: int) -> None:
        self._values = np.asarray(values, np.float64)
        self.channels, self.rows = self._values.shape
        self.n, self.m = n, m

    @property
    def overhead(self) -> float:
        """See ``LoadedMatrix``; none, so that it makes as many moves as the CPU's."""
        return 0.0

    side_by_side = 1

    def retained(self, order: Ints) -> float:
        """See ``LoadedMatrix``."""
        return float(self.group_table(order.reshape(-1, self.m)).sum())

    def channel_sums(self) -> Doubles:
        """See ``LoadedMatrix``."""
        sums: Doubles = self._values.sum(axis=1, dtype=np.float64)
        return sums

    def group_table(self, groups: Ints) -> Doubles:
        """See ``LoadedMatrix``."""
        ranked = np.sort(self._values[groups], axis=1)  # (groups, m, rows)
        retained: Doubles = ranked[:, self.m - self.n :].sum(axis=(1, 2))
        return retained

    def completions(self, prefixes: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        groups = np.empty((len(prefixes), self.channels, self.m), np.int64)
        groups[:, :, :-1] = prefixes[:, None]
        groups[:, :, -1] = np.arange(self.channels)
        return self.group_table(groups.reshape(-1, self.m)).reshape(len(prefixes), -1).astype(np.float32)

    def best_partitions(self, order: Ints, sets: Ints, subsets: Ints, parts: Ints) -> tuple[Doubles, Ints]:
        """See ``LoadedMatrix``."""
        now = self.group_table(order.reshape(-1, self.m)[sets].reshape(-1, self.m)).reshape(len(sets), -1).sum(axis=1)
        channels = np.sort(order.reshape(-1, self.m)[sets].reshape(len(sets), -1), axis=1)
        values = self.group_table(channels[:, subsets].reshape(-1, self.m)).reshape(len(sets), len(subsets))
        totals = values[:, parts].sum(axis=2)
        chosen = subsets[parts[totals.argmax(axis=1)]].reshape(len(sets), -1)
        return totals.max(axis=1) - now, np.take_along_axis(channels, chosen, axis=1)

    def table(self, order: Ints, slots: Ints, channels: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        groups = order.reshape(-1, self.m)[slots // self.m]
        replaced = np.repeat(groups[:, None], len(channels), axis=1)
        replaced[np.arange(len(slots)), :, slots % self.m] = channels
        return self.group_table(replaced.reshape(-1, self.m)).reshape(len(slots), -1).astype(np.float32)

    def swaps(self, order: Ints, slots: Ints) -> TableSwaps:
        """See ``LoadedMatrix``."""
        return TableSwaps(self, order, slots)

    def anneal(self, orders: Ints, steps: int, hot: float, cold: float, seeds: Ints) -> Ints:
        """See ``LoadedMatrix``."""
        cooling = np.geomspace(hot, cold, steps) if hot > 0 else np.zeros(steps)
        return np.stack([self._anneal(order, cooling, seed) for order, seed in zip(orders, seeds)])

    def _anneal(self, order: Ints, cooling: Doubles, seed: int) -> Ints:
        rng = np.random.default_rng(seed)
        value = self.retained(order)
        best, best_value = order, value
        for temperature in cooling:
            candidate = _swapped(order, *rng.integers(self.channels, size=2))
            candidate_value = self.retained(candidate)
            if candidate_value - value > -temperature * rng.exponential():
                order, value = candidate, candidate_value
                if value > best_value:
                    best, best_value = order, value
        return best

    def assign(self, orders: Ints, noise: Doubles, seeds: Ints) -> Ints:
        """See ``LoadedMatrix``."""
        return np.stack([self._assign(order, noise, seed) for order, seed in zip(orders, seeds)])

    def _assign(self, order: Ints, noise: Doubles, seed: int) -> Ints:
        rng = np.random.default_rng(seed)
        order = order.copy()
        for temperature in noise:
            slots = np.arange(0, self.channels, self.m) + rng.integers(self.m, size=self.channels // self.m)
            value = self.table(order, slots, order[slots]).astype(np.float64)
            value[np.diag_indices_from(value)] -= temperature * rng.exponential(size=len(slots))
            dealt = linear_sum_assignment(value, maximize=True)[1]
            order[slots] = order[slots][dealt]
        return order


def _swapped(order: Ints, slot: int, other: int) -> Ints:
    swapped = order.copy()
    swapped[[slot, other]] = swapped[[other, slot]]
    return swapped
