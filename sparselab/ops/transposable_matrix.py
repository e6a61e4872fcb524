"""The primitives of a search for masks that are N:M both ways: the rows stay, and the order of the columns decides.

Rows are cut into blocks of M. In one of them a column keeps N of its M entries, a *pick* (six at
2:4), and the columns of a group must pick so that every row keeps N. With one slot of a group
empty, let ``base[block, pick]`` be the most that the other columns retain when the empty slot picks
``pick``; a column with ``picked[pick, block]`` in its entries then makes the group worth
``sum over blocks of max over picks of base + picked``. So all that local search needs is a (max, +)
product here too, with as many inner terms as there are picks.
"""

from __future__ import annotations

from functools import cached_property
from itertools import combinations

import numpy as np

from sparselab.ops.jit import jit
from sparselab.ops.masks import block_choices
from sparselab.ops.matrix import Doubles, Floats, Ints, power_of_two
from sparselab.ops.reference import ReferenceMatrix
from sparselab.ops.swaps import annealed
from sparselab.ops.threads import map_blocks, row_blocks

_BASES = 2**22
"""Entries of the largest table of bases: 16 MiB."""


def load(values: Floats, n: int, m: int) -> TransposableMatrix:
    """Load ``values``, ``(channels, rows)``, with rows divisible by ``m``, which is at most 4 or so."""
    return TransposableMatrix(values, n, m)


class TransposableMatrix(ReferenceMatrix):
    """See ``sparselab.ops.matrix.LoadedMatrix``; what is retained is what the best 2d mask of each block keeps."""

    def __init__(self, values: Floats, n: int, m: int) -> None:
        self.channels, self.rows = values.shape
        self.n, self.m = n, m
        self.scale = power_of_two(values)
        self._values = np.asarray(values, np.float64) / self.scale
        picks = list(combinations(range(m), n))
        blocks = self._values.reshape(self.channels, -1, m)
        self._picked: Floats = np.stack([blocks[:, :, pick].sum(axis=2).T for pick in picks]).astype(np.float32)
        self._by_column = np.ascontiguousarray(self._picked.transpose(2, 1, 0))
        self._ways = _ways(n, m, picks)

    @property
    def overhead(self) -> float:
        """See ``LoadedMatrix``."""
        groups = self.channels // self.m
        return float(1e-3 + 2e-10 * groups * self.rows * (groups * len(self._picked) + len(self._ways)))

    def group_table(self, groups: Ints) -> Doubles:
        """See ``LoadedMatrix``."""
        values = np.empty(len(groups))
        for part in row_blocks(len(groups), self._prefixes_at_once):
            bases = self._bases(groups[part, :-1])
            values[part] = (bases + self._by_column[groups[part, -1]]).max(axis=2).sum(axis=1, dtype=np.float64)
        return values

    def completions(self, prefixes: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        return self._completed(prefixes, self._picked)

    def table(self, order: Ints, slots: Ints, channels: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        groups = order.reshape(-1, self.m)[slots // self.m]
        stays = np.arange(self.m) != (slots % self.m)[:, None]
        return self._completed(
            groups[stays].reshape(len(slots), -1), np.ascontiguousarray(self._picked[:, :, channels])
        )

    def _anneal(self, order: Ints, cooling: Doubles, seed: int) -> Ints:
        return annealed(self, order, cooling, seed)

    def _completed(self, prefixes: Ints, picked: Floats) -> Floats:
        """``(prefixes, columns)``: what each prefix retains with each column of ``picked``."""
        worth = np.empty((len(prefixes), picked.shape[2]), np.float32)

        def run(part: slice) -> None:
            _complete(self._bases(prefixes[part]), picked, worth[part])

        map_blocks(run, row_blocks(len(prefixes), min(64, self._prefixes_at_once)))
        return worth

    def _bases(self, prefixes: Ints) -> Floats:
        """``(prefixes, blocks, picks)``: what ``m - 1`` columns retain for each pick of the missing one."""
        bases = np.empty((len(prefixes), *self._by_column.shape[1:]), np.float32)
        _base(self._by_column, prefixes, self._ways, bases)
        return bases

    @cached_property
    def _prefixes_at_once(self) -> int:
        return int(max(1, _BASES // max(1, len(self._picked) * (self.rows // self.m))))


def _ways(n: int, m: int, picks: list[tuple[int, ...]]) -> Ints:
    """Every way in which the columns of a block can pick: the number of each column's pick, ``(ways, m)``."""
    number = {pick: k for k, pick in enumerate(picks)}
    choices = block_choices(n, m).reshape(-1, m, m).numpy()
    return np.array([[number[tuple(np.flatnonzero(column))] for column in choice.T] for choice in choices], np.int64)


@jit
def _base(by_column: Floats, prefixes: Ints, ways: Ints, bases: Floats) -> None:
    last = prefixes.shape[1]
    picked = np.empty((last, by_column.shape[2]), np.float32)
    for row in range(len(prefixes)):
        for block in range(by_column.shape[1]):
            for place in range(last):
                picked[place] = by_column[prefixes[row, place], block]
            best = bases[row, block]
            best[:] = -np.inf
            for way in range(len(ways)):
                worth = np.float32(0)
                for place in range(last):
                    worth += picked[place, ways[way, place]]
                best[ways[way, last]] = max(best[ways[way, last]], worth)


@jit
def _complete(bases: Floats, picked: Floats, worth: Floats) -> None:
    columns = np.uint64(picked.shape[2])
    for row in range(len(bases)):
        total = worth[row]
        total[:] = 0
        best = np.empty(picked.shape[2], np.float32)
        for block in range(picked.shape[1]):
            best[:] = -np.inf
            for pick in range(picked.shape[0]):
                base, entries = bases[row, block, pick], picked[pick, block]
                for column in range(columns):
                    best[column] = max(best[column], base + entries[column])
            for column in range(columns):
                total[column] += best[column]
