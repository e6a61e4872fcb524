"""The primitives of a search for the groups whose pruning changes least of what rows give.

A row ``w`` that loses the entries ``P`` of a group is off by ``w_P^T H_PP w_P``, or, where the
entries that stay may make up for it, by ``w_P^T (G_PP)^-1 w_P`` with ``G`` the inverse of ``H``
(the optimal brain surgeon). With entries scaled so that the diagonals are 1 both are a quadratic
form of correlations: ``v_P^T R_PP v_P``, or ``v_P^T (R_PP)^-1 v_P``. For two entries that is

    a (v_i^2 + v_j^2) + 2 b v_i v_j,    a, b = 1, r    or    a, b = 1 / (1 - r^2), -r / (1 - r^2),

so a group with one slot empty has for each row a least error without the missing channel, and one
more for every channel that stays: the tables of swaps and assignments are filled as for saliency,
with some ten operations in place of one. One entry has no correlation; more than two are counted
set by set.

A group is *worth* what its entries give by themselves (times ``allowance``) less the least error of
every row, which is not negative: by a constant it is minus the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.cpu.matrix import CpuMatrix
from sparselab.ops.jit import jit, jit_sums
from sparselab.ops.matrix import Doubles, Floats, Ints
from sparselab.ops.reference import ReferenceMatrix
from sparselab.ops.swaps import annealed
from sparselab.ops.threads import map_blocks, row_blocks, thread_count

Matrix = NDArray[Any]

_ROWS = 2048  # of one matrix of correlations that are summed at once in the floats they are in
_SLOTS = 16  # slots of a table that one thread computes at once
_GROUPS = 64  # groups that one thread scores at once
_NUMBERS = 2**21  # of the sets of a block of groups that are counted at once
_PAIR = 2  # entries lost, up to which there are tables


@dataclass(frozen=True, eq=False)
class Forms:
    """Rows and their quadratic forms.

    ``values`` ``(channels, rows)``, and for each run of rows ``starts[k]:starts[k + 1]`` the
    correlations ``related[k]``, ``(channels, channels)``, whose diagonals nobody reads; ``updated``:
    errors are ``v_P^T (R_PP)^-1 v_P``. ``own`` ``(channels,)``: what each channel gives by itself.
    """

    values: Matrix
    related: Matrix
    starts: Ints
    own: Doubles
    updated: bool

    def __truediv__(self, scale: float) -> Forms:
        """The same with errors in units of ``scale``, a power of 4, and in float32."""
        values = (self.values / math.sqrt(scale)).astype(np.float32)
        return Forms(values, self.related.astype(np.float32), self.starts, self.own / scale, self.updated)

    def worth(self, groups: Ints, n: int) -> Doubles:
        """What each row of ``groups``, ``(k, m)`` channels, is worth in masks that keep ``n``; exact to the dtype."""
        m = groups.shape[1]
        errors = np.zeros(len(groups))
        count = self._pairs if m - n <= _PAIR else self._sets
        parts = row_blocks(len(groups), _GROUPS)
        map_blocks(lambda part: count(groups[part], m - n, errors[part]), parts)
        own: Doubles = self.own[groups].sum(axis=1)
        return allowance(n, m) * own - errors

    def _pairs(self, groups: Ints, lost: int, errors: Doubles) -> None:
        _least_errors(self.values, self.related, self.starts, groups, lost, self.updated, errors)

    def _sets(self, groups: Ints, lost: int, errors: Doubles) -> None:
        """Every set of ``lost`` entries of every group, in float64."""
        sets = np.array(list(combinations(range(groups.shape[1]), lost)))
        diagonal = np.arange(lost)
        for k, (first, last) in enumerate(zip(self.starts, self.starts[1:])):
            step = max(1, _NUMBERS // max(1, len(groups) * sets.size))
            chosen = groups[:, sets]  # (groups, sets, lost)
            forms = self.related[k][chosen[..., :, None], chosen[..., None, :]].astype(np.float64)
            forms[..., diagonal, diagonal] = 1
            if self.updated:
                forms = np.linalg.inv(forms)
            for start in range(int(first), int(last), step):
                values = self.values[chosen, start : min(start + step, last)].astype(np.float64)
                costs = np.einsum("gspr,gspq,gsqr->gsr", values, forms, values, optimize=True)
                errors += costs.min(axis=1).sum(axis=1)


def allowance(n: int, m: int) -> float:
    """So many times what its entries give by themselves a group's least error is at most.

    The mean over all sets of ``p`` entries is at most ``p^2 / m`` times, whatever the correlations.

    >>> allowance(2, 4), allowance(1, 4)
    (1.0, 2.25)
    """
    return max(1.0, (m - n) ** 2 / m)


def load(forms: Forms, n: int, m: int, backend: str) -> ReferenceErrors:
    """``forms`` for searching on ``backend``, ``"cpu"`` or ``"reference"``."""
    return ErrorMatrix(forms, n, m) if backend == "cpu" else ReferenceErrors(forms, n, m)


class ReferenceErrors(ReferenceMatrix):
    """See ``sparselab.ops.matrix.LoadedMatrix``; every primitive from the worth of groups, in float64."""

    def __init__(self, forms: Forms, n: int, m: int) -> None:
        self.channels, self.rows = forms.values.shape
        self.n, self.m = n, m
        self._forms = forms

    def channel_sums(self) -> Doubles:
        """See ``LoadedMatrix``: what each channel gives by itself."""
        return self._forms.own

    def group_table(self, groups: Ints) -> Doubles:
        """See ``LoadedMatrix``."""
        return self._forms.worth(np.ascontiguousarray(groups, np.int64), self.n)

    def _anneal(self, order: Ints, cooling: Doubles, seed: int) -> Ints:
        return annealed(self, order, cooling, seed)


class ErrorMatrix(ReferenceErrors):
    """The primitives in numba, with tables where masks lose one or two entries of a group.

    Holds 4 bytes per entry, and as many per pair of channels and matrix of correlations.
    """

    def __init__(self, forms: Forms, n: int, m: int) -> None:
        largest = float(np.abs(forms.values).max(initial=0.0))
        self.scale = math.ldexp(1.0, 2 * math.frexp(largest)[1]) if largest > 0 else 1.0
        super().__init__(forms / self.scale, n, m)

    @property
    def overhead(self) -> float:
        """See ``LoadedMatrix``."""
        groups = self.channels // self.m
        return float(1e-3 + 4e-10 * groups**2 * self.rows + 4e-8 * groups**2)

    @property
    def side_by_side(self) -> int:  # type: ignore[override]
        """See ``LoadedMatrix``: the table of one chain is filled by all threads."""
        return max(1, thread_count() // 2)

    @cached_property
    def stand_in(self) -> CpuMatrix:
        """The channels as if no two of them came together: what each entry gives is its score."""
        return CpuMatrix(np.square(self._forms.values), self.n, self.m)

    def completions(self, prefixes: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        if self.m - self.n > _PAIR:
            return super().completions(prefixes)
        return self._completed(prefixes, np.arange(self.channels))

    def table(self, order: Ints, slots: Ints, channels: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        if self.m - self.n > _PAIR:
            return super().table(order, slots, channels)
        groups = order.reshape(-1, self.m)[slots // self.m]
        stays = np.arange(self.m) != (slots % self.m)[:, None]
        return self._completed(groups[stays].reshape(len(slots), -1), channels)

    def _completed(self, prefixes: Ints, channels: Ints) -> Floats:
        forms, errors = self._forms, np.zeros((len(prefixes), len(channels)))

        def fill(part: slice) -> None:
            _complete(
                forms.values,
                forms.related,
                forms.starts,
                prefixes[part],
                channels,
                self.m - self.n,
                forms.updated,
                errors[part],
            )

        map_blocks(fill, row_blocks(len(prefixes), _SLOTS))
        own = forms.own[prefixes].sum(axis=1)[:, None] + forms.own[channels]
        worth: Floats = (allowance(self.n, self.m) * own - errors).astype(np.float32)
        return worth


@jit
def _coefficients(related: float, updated: bool) -> tuple[float, float]:
    """``a`` and ``2 b`` of a pair."""
    if not updated:
        return 1.0, 2.0 * related
    left = 1.0 - related * related
    return 1.0 / left, -2.0 * related / left


@jit_sums
def _with_one(values: Matrix, one: int, first: int, best: Matrix) -> None:
    for r in range(np.uint64(len(best))):
        v = values[one, np.uint64(first) + r]
        best[r] = min(best[r], v * v)


@jit_sums
def _with_pair(values: Matrix, one: int, two: int, first: int, a: float, b: float, best: Matrix) -> None:
    """``best`` or, where that is less, the error without the two."""
    a, b = values.dtype.type(a), values.dtype.type(b)
    for r in range(np.uint64(len(best))):
        v, w = values[one, np.uint64(first) + r], values[two, np.uint64(first) + r]
        best[r] = min(best[r], a * (v * v + w * w) + b * v * w)


@jit
def _without(values: Matrix, related: Matrix, group: Ints, first: int, lost: int, updated: bool, best: Matrix) -> None:
    """The least error of each row, of the ways to lose entries of ``group`` alone."""
    best[:] = np.inf
    for i in range(len(group)):
        if lost == 1:
            _with_one(values, group[i], first, best)
            continue
        for j in range(i):
            a, b = _coefficients(related[group[i], group[j]], updated)
            _with_pair(values, group[i], group[j], first, a, b, best)


@jit_sums
def _sum(best: Matrix) -> float:
    total = best.dtype.type(0)
    for r in range(np.uint64(len(best))):
        total += best[r]
    return total  # type: ignore[no-any-return]


@jit
def _least_errors(
    values: Matrix, related: Matrix, starts: Ints, groups: Ints, lost: int, updated: bool, errors: Doubles
) -> None:
    """Add the least error of every row in each of ``groups`` to ``errors``."""
    held = np.empty(_ROWS, values.dtype)
    for k in range(len(related)):
        for first in range(starts[k], starts[k + 1], _ROWS):
            best = held[: min(_ROWS, starts[k + 1] - first)]
            for g in range(len(groups)):
                if lost == 0:
                    continue
                _without(values, related[k], groups[g], first, lost, updated, best)
                errors[g] += _sum(best)


@jit_sums
def _of_four(values: Matrix, p: int, q: int, s: int, x: int, first: int, factors: Matrix, least: Matrix) -> float:
    """The sum of ``least`` or, where that is less, of the error without ``x`` and one of three others."""
    a, b, c = factors[0, 0], factors[1, 0], factors[2, 0]
    d, e, f = factors[0, 1], factors[1, 1], factors[2, 1]
    total = values.dtype.type(0)
    for r in range(np.uint64(len(least))):
        at = np.uint64(first) + r
        u, v, w, z = values[p, at], values[q, at], values[s, at], values[x, at]
        zz = z * z
        one = a * (u * u + zz) + d * (u * z)
        two = b * (v * v + zz) + e * (v * z)
        three = c * (w * w + zz) + f * (w * z)
        total += min(min(least[r], one), min(two, three))
    return total  # type: ignore[no-any-return]


@jit
def _complete(
    values: Matrix,
    related: Matrix,
    starts: Ints,
    prefixes: Ints,
    channels: Ints,
    lost: int,
    updated: bool,
    errors: Doubles,
) -> None:
    """Add the least error of every row in each of ``prefixes`` with each of ``channels`` to ``errors``."""
    held, both = np.empty(_ROWS, values.dtype), np.empty(_ROWS, values.dtype)
    members = prefixes.shape[1]
    factors = np.empty((members, 2), values.dtype)
    for k in range(len(related)):
        for first in range(starts[k], starts[k + 1], _ROWS):
            count = min(_ROWS, starts[k + 1] - first)
            least, best = held[:count], both[:count]
            for g in range(len(prefixes)):
                group = prefixes[g]
                _without(values, related[k], group, first, lost, updated, least)
                for x in range(len(channels)):
                    new = channels[x]
                    if lost == 1:
                        best[:] = least
                        _with_one(values, new, first, best)
                        errors[g, x] += _sum(best)
                        continue
                    for i in range(members):
                        factors[i] = _coefficients(related[k, group[i], new], updated)
                    if members == 3:
                        errors[g, x] += _of_four(values, group[0], group[1], group[2], new, first, factors, least)
                        continue
                    best[:] = least
                    for i in range(members):
                        _with_pair(values, group[i], new, first, factors[i, 0], factors[i, 1], best)
                    errors[g, x] += _sum(best)
