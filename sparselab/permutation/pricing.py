"""An upper bound for hundreds of channels: prices that every group is swept with, and no linear program.

Let every channel be charged a price ``c_i``, and let ``g_i`` be the most that any group with channel ``i`` retains
beyond what its channels are charged. An order retains the sum over its groups, each group's share can be told to its M
channels in equal parts, and each part is at most ``c_i + g_i / M`` beside the other prices: so no order retains more than
``sum_i (c_i + g_i / M)``, whatever the prices (a dual bound of the program in ``covering``). Adding ``g_i / M`` to each
price makes prices under which no group gains: the next sweep can only lower them. Sweeps of all groups are what
integer kernels do fast (``sparselab.ops.cpu.pricing``); their rounding is on the safe side.
"""

from __future__ import annotations

from math import comb
from typing import Protocol, runtime_checkable

from sparselab.ops.matrix import Doubles, LoadedMatrix
from sparselab.permutation.strategy import Search

_WORK = 2**42  # bytes of groups in all sweeps: about a minute on two cores of 2025
_MOST_SWEEPS = 8
_MOST_ROWS = 2**16  # so that sums of bytes stay far below 2^30
_M = 4
_ROUNDING = 1e-5  # sums of float32 against float64, relative


@runtime_checkable
class SweepsGroups(Protocol):
    """A loaded matrix that can look at every group of its channels."""

    def most_gains(self, charges: Doubles) -> Doubles:
        """For each channel what no group with it exceeds: retained saliency less the ``charges`` of its channels."""


def sweeps(rows: int, channels: int, m: int) -> int:
    """How many sweeps of all groups a bound is worth; 0 where there are too many groups for one.

    >>> [sweeps(512, channels, 4) for channels in (320, 512, 768)]
    [8, 3, 0]
    """
    if m != _M or channels < m or rows > _MOST_ROWS:
        return 0
    return min(_MOST_SWEEPS, _WORK // (comb(channels, m) * max(64, rows)))


def prove_by_prices(search: Search) -> None:
    """Leave an upper bound on ``search`` after every sweep, where there are few enough groups for one."""
    matrix: LoadedMatrix = search.matrix
    if not isinstance(matrix, SweepsGroups):
        return
    prices = matrix.channel_sums() * (matrix.n / matrix.m)
    for _ in range(sweeps(matrix.rows, matrix.channels, matrix.m)):
        prices = prices + matrix.most_gains(prices) / matrix.m
        search.prove(float(prices.sum()) * (1 + _ROUNDING))
