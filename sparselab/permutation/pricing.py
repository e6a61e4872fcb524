"""An upper bound for hundreds of channels: prices from the groups that are easily found, proven by looking at all.

Let every channel be charged a price ``c_i``, and let ``g_i`` be the most that any group with channel ``i`` retains
beyond what its channels are charged. An order retains the sum over its groups, each group's share can be told to its M
channels in equal parts, and each part is at most ``c_i + g_i / M`` beside the other prices: so no order retains more than
``sum_i (c_i + g_i / M)``, whatever the prices (a dual bound of the program in ``covering``).

Good prices need no sweep of all groups. A few thousand groups have some (``soft_prices``); groups one channel away from
the best of those gain under them, and are added; and so on as the temperature falls. Then one sweep finds the groups
that gain most, all that gain more than some ``t``, mostly negative. Any other group gains nothing either under prices
``p_i >= c_i + t / M``. So the best prices within that limit for the groups that were found are proven without another
sweep, which is only worth its time where a price lies on the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import comb
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np

from sparselab.ops.matrix import Doubles, Ints, LoadedMatrix, distinct
from sparselab.permutation.problem import Order
from sparselab.permutation.soft_prices import SoftProgram

_WORK = 3 * 2**42  # bytes of groups in all sweeps: about a minute on two cores of 2025
_PLAN = (False, True, True)  # the sweeps there may be: whether in float32, as bytes are too coarse for some scores
_EXACTLY = 4  # times the work of a sweep in bytes
_MOST_ROWS = 2**16  # so that sums of bytes stay far below 2^30
_M = 4
_ROUNDING = 1e-5  # sums of float32 against float64, relative
_FOUND = 2**17  # groups that a sweep finds
_AROUND = 8  # groups for each channel that are looked around in a round, and as many that are met
_KEPT = 40.0  # temperatures that a group may be from gaining and still count
_FALL = 4.0  # temperatures that a price may fall by in a round; where few groups are known it would fall without end
# Temperatures, in spreads of the first gains: those of the rounds, and those of the prices after a sweep.
_ROUNDS = np.geomspace(2**-0.4, 2**-9, 23)
_COOLING = np.geomspace(2**-4, 2**-11, 8)


@runtime_checkable
class SweepsGroups(LoadedMatrix, Protocol):
    """A loaded matrix that can look at many groups of four of its channels, if it has no more than 2^16 rows.

    A group gains what it retains less the ``charges`` ``(channels,)`` of its channels.
    """

    def best_groups(self, charges: Doubles, count: int, exactly: bool) -> tuple[Ints, float]:
        """Up to ``count`` groups ``(k, 4)``, those that gain most of all, and what no other group gains more than.

        Looks at them in float32, or in bytes; how much those are off is added to what is said of the other groups, which
        is infinite where the charges are too large for integers.
        """

    def best_exchanges(self, charges: Doubles, groups: Ints, count: int) -> Ints:
        """Up to ``count`` groups, members rising, that gain most, to a byte, of those a channel away from ``groups``."""


def sweeps(rows: int, channels: int, m: int) -> list[bool]:
    """The sweeps of all groups that a bound may take, each in float32 or, in a quarter of the time, in bytes.

    >>> [sweeps(512, channels, 4) for channels in (512, 768, 1024)]
    [[False, True, True], [False], []]
    """
    if m != _M or channels < m or rows > _MOST_ROWS:
        return []
    affordable = _WORK // (comb(channels, m) * max(64, rows))
    spent = accumulate(_EXACTLY if exactly else 1 for exactly in _PLAN)
    return [exactly for exactly, work in zip(_PLAN, spent) if work <= affordable]


def can_price(matrix: LoadedMatrix) -> TypeGuard[SweepsGroups]:
    """Whether the matrix can look at its groups, and they are few enough."""
    return isinstance(matrix, SweepsGroups) and bool(sweeps(matrix.rows, matrix.channels, matrix.m))


def prove_by_prices(matrix: SweepsGroups, order: Order) -> Iterator[float]:
    """Upper bounds of what an order retains, one after every sweep, from what is near the groups of ``order`` on."""
    prices, spread = _first_prices(matrix, order)
    for exactly in sweeps(matrix.rows, matrix.channels, matrix.m):
        groups, most = matrix.best_groups(prices, _FOUND, exactly)
        if most == np.inf:
            continue
        program = SoftProgram(groups, matrix.group_table(groups), prices + most / matrix.m)
        for temperature in spread * _COOLING:
            prices = program.solve(prices, temperature)
        prices = np.maximum(prices, program.least)
        gains = np.zeros(matrix.channels)
        np.maximum.at(gains, groups, program.gains(prices)[:, None])
        yield float((prices + gains / matrix.m).sum()) * (1 + _ROUNDING)
        if (prices > program.least + spread * _COOLING[-1]).all():
            break


def _first_prices(matrix: SweepsGroups, order: Order) -> tuple[Doubles, float]:
    """Prices from the groups near those of ``order``, and near the best of those, and so on; and a spread of gains."""
    groups = np.sort(order.reshape(-1, matrix.m), axis=1)
    sums = matrix.channel_sums()
    prices = sums * (matrix.retained(order) / (float(sums.sum()) or 1.0))
    groups = _with_exchanges(matrix, prices, groups, groups)
    gains = matrix.group_table(groups) - prices[groups].sum(axis=1)
    spread = float(gains.std()) or 1.0
    for temperature in spread * _ROUNDS:
        program = SoftProgram(groups, matrix.group_table(groups), prices - _FALL * temperature)
        prices = program.solve(prices, temperature)
        gains = program.gains(prices)
        best = groups[np.argsort(-gains, kind="stable")[: _AROUND * matrix.channels]]
        groups = _with_exchanges(matrix, prices, best, groups[gains > -_KEPT * temperature])
    return prices, spread


def _with_exchanges(matrix: SweepsGroups, prices: Doubles, best: Ints, groups: Ints) -> Ints:
    """``groups`` and those that gain most a channel away from the ``best``."""
    both = np.concatenate([groups, matrix.best_exchanges(prices, best, _AROUND * matrix.channels)])
    return both[distinct(both, matrix.channels)]
