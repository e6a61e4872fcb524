"""The linear program over all groups: how good an order could possibly be.

An order is a choice of groups that covers every channel once. Let every group be chosen by a
fraction and the best choice is a linear program, whose value no order exceeds. It has a variable
for each of C-choose-M groups, so columns are generated: solve it over some groups, price all groups
with the duals, add those that would gain, repeat (Gilmore and Gomory, Operations Research 9, 1961).
Any duals bound the optimum: the sum of the duals plus C/M times the largest reduced gain is an
upper bound at every round, not only at the end.

All groups are priced by their first M-1 channels at once: what a prefix retains with each last channel is a row of the
(max, +) product that ``sparselab.ops`` is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, islice
from math import comb
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from sparselab.ops.matrix import Doubles, Floats, Ints, LoadedMatrix

MAX_GROUPS = 200_000_000
_HELD = 2**26  # table entries kept between rounds (256 MiB); above, every round computes them again
_NEIGHBOURS = 16  # channels tried in each slot of the orders to start from
_BLOCK = 2**14  # prefixes priced at once
_TOLERANCE = 1e-6  # of a group's mean value: below it, a gain is float32's rounding
_ROUNDING = 4e-6  # float32 tables against float64, relative


@dataclass(eq=False)
class Covering:
    """The linear program of one matrix, its columns and its best duals so far.

    ``bound`` is in units of the matrix and never too low, rounding included. Refuses more than 2*10^8 groups.
    """

    matrix: LoadedMatrix
    running: Callable[[], bool]
    bound: float = field(init=False, default=np.inf)
    duals: Doubles = field(init=False)
    columns: Ints = field(init=False)
    values: Doubles = field(init=False)

    @staticmethod
    def fits(channels: int, m: int) -> bool:
        """Whether there are few enough groups to price."""
        return comb(channels, m) <= MAX_GROUPS and m > 1

    def solve(self, orders: Ints) -> None:
        """Generate columns until none gains or time is up.

        Starts from ``orders`` ``(k, channels)`` and what is one channel away.
        """
        m, channels = self.matrix.m, self.matrix.channels
        groups = [orders.reshape(-1, m), *(self._one_away(order) for order in orders)]
        self.columns = np.unique(np.sort(np.concatenate(groups), axis=1), axis=0)
        self.values = self.matrix.group_table(self.columns)
        scale = float(self.values.mean()) or 1.0
        while True:
            duals = self._restricted()
            gain, found = self._price(duals)
            bound = (float(duals.sum()) + channels // m * max(gain, 0.0)) * (1 + _ROUNDING)
            if bound < self.bound:
                self.bound, self.duals = bound, duals
            known = len(self.columns)
            self.columns = np.unique(np.concatenate([self.columns, found]), axis=0)
            if gain <= _TOLERANCE * scale or len(self.columns) == known or not self.running():
                break
            self.values = self.matrix.group_table(self.columns)

    def _one_away(self, order: Ints) -> Ints:
        """For every slot of ``order`` its group with the channels in that slot that it would retain most with."""
        m, channels = self.matrix.m, self.matrix.channels
        slots = np.arange(channels)
        worth = self.matrix.table(order, slots, slots)
        worth[slots[:, None], order.reshape(-1, m)[slots // m]] = -np.inf  # already in the group
        count = min(_NEIGHBOURS, channels - m)
        fitting = np.argpartition(-worth, count - 1, axis=1)[:, :count]
        groups = np.repeat(order.reshape(-1, m)[slots // m], count, axis=0)
        groups[np.arange(len(groups)), np.repeat(slots % m, count)] = fitting.ravel()
        return groups

    def near(self, least: float) -> Ints:
        """All groups whose reduced gain is at least ``least`` under the best duals: any other's order is worse."""
        found = []
        for prefixes, gains in self._reduced(self.duals):
            row, last = np.nonzero(gains >= least)
            found.append(np.column_stack([prefixes[row], last]))
        return np.concatenate(found)

    def _restricted(self) -> Doubles:
        """The duals of the program over the columns there are."""
        solution = linprog(
            -self.values,
            A_eq=_incidence(self.columns, self.matrix.channels),  # type: ignore[call-overload]
            b_eq=np.ones(self.matrix.channels),
        )
        duals: Doubles = -np.asarray(solution.eqlin.marginals)
        return duals

    def _price(self, duals: Doubles) -> tuple[float, Ints]:
        """The largest reduced gain of all groups, and the groups that gain most, at most one per prefix."""
        wanted = 8 * self.matrix.channels
        gains, groups = np.empty(0), np.empty((0, self.matrix.m), np.int64)
        for prefixes, reduced in self._reduced(duals):
            last = reduced.argmax(axis=1)
            best = reduced[np.arange(len(last)), last]
            keep = np.flatnonzero(best > 0)
            gains = np.concatenate([gains, best[keep]])
            groups = np.concatenate([groups, np.column_stack([prefixes[keep], last[keep]])])
            top = np.argsort(-gains, kind="stable")[:wanted]
            gains, groups = gains[top], groups[top]
        return (float(gains[0]), groups) if len(gains) else (0.0, groups)

    def _reduced(self, duals: Doubles) -> Iterator[tuple[Ints, Floats]]:
        """Blocks of prefixes, and what each gains with each last channel beyond what its channels are charged."""
        charge = duals.astype(np.float32)
        for prefixes, table in self._tables():
            reduced = table - duals[prefixes].sum(axis=1, dtype=np.float64).astype(np.float32)[:, None] - charge
            reduced[np.arange(self.matrix.channels) <= prefixes[:, -1:]] = -np.inf
            yield prefixes, reduced

    def _tables(self) -> Iterator[tuple[Ints, Floats]]:
        if comb(self.matrix.channels, self.matrix.m - 1) * self.matrix.channels <= _HELD:
            yield from self._held
        else:
            yield from self._computed()

    @cached_property
    def _held(self) -> list[tuple[Ints, Floats]]:
        return list(self._computed())

    def _computed(self) -> Iterator[tuple[Ints, Floats]]:
        prefixes = combinations(range(self.matrix.channels - 1), self.matrix.m - 1)
        while block := list(islice(prefixes, _BLOCK)):
            chosen = np.array(block, np.int64)
            yield chosen, self.matrix.completions(chosen)


def best_cover(columns: Ints, values: Doubles, channels: int, seconds: float | None) -> tuple[Ints | None, float]:
    """The best order made of the given groups, by integer programming, and an upper bound of any such order.

    No order where the time is over before one is found.
    """
    options: Any = {"mip_rel_gap": 1e-9, **({} if seconds is None else {"time_limit": max(seconds, 0.01)})}
    cover = LinearConstraint(_incidence(columns, channels), 1.0, 1.0)
    solution = milp(
        -values, constraints=cover, integrality=np.ones(len(values), np.int64), bounds=Bounds(0, 1), options=options
    )
    bound = np.inf if solution.mip_dual_bound is None else -float(solution.mip_dual_bound)
    if solution.x is None:
        return None, bound
    return columns[solution.x > 0.5].ravel(), bound


def _incidence(columns: Ints, channels: int) -> sparse.csc_array:
    ones, m = np.ones(columns.size), columns.shape[1]
    starts = np.arange(0, columns.size + 1, m)
    return sparse.csc_array((ones, columns.ravel(), starts), shape=(channels, len(columns)))
