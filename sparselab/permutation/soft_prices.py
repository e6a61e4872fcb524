"""Prices of channels that some groups are worth, from a linear program made smooth.

The dual of covering every channel once (``covering``) wants the least sum of prices ``c`` under which no group gains:
``v_g <= sum of c_i over g``. Its solutions are corners, which a few more groups move far. Here a group that gains is not
forbidden but charged, ``T exp(gain / T)``: that is the covering with ``T`` times the entropy of how it is mixed, and its
prices move little when a group is added. They are unique, no group gains under them, and their sum is above the program's
by no more than ``T`` times that entropy. The charge is convex and smooth, so that Newton's method needs some ten steps,
each a system of as many equations as there are channels. Far away, where it fails, iterative scaling goes on (Darroch and
Ratcliff, Annals of Mathematical Statistics 43, 1972).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparselab.ops.jit import jit, jit_sums
from sparselab.ops.matrix import Doubles, Ints

_STEEPEST = 5.0  # temperatures that a group may gain where Newton's method begins
_STEPS = 40
_SOLVED = 1e-3  # how far from once a channel may be covered
_HALVINGS = 4
_NOTHING = 1e-12  # a share of a group that counts for nothing
_RIDGE = 1e-9  # so that a channel that nothing covers is no singular equation


@dataclass(frozen=True, eq=False)
class SoftProgram:
    """``groups`` ``(k, m)`` and their ``values`` ``(k,)``, with prices that are to be no less than ``least``.

    A price below its least is charged as if it were a group that gains.
    """

    groups: Ints
    values: Doubles
    least: Doubles

    def gains(self, prices: Doubles) -> Doubles:
        """What every group is worth beyond its channels' prices."""
        gains: Doubles = self.values - prices[self.groups].sum(axis=1)
        return gains

    def solve(self, prices: Doubles, temperature: float) -> Doubles:
        """The prices at ``temperature``, from ``prices`` on."""
        m = self.groups.shape[1]
        steepest = max(float(self.gains(prices).max(initial=-np.inf)) / m, float((self.least - prices).max()))
        prices = prices + max(0.0, steepest - _STEEPEST * temperature / m)
        value, shares, free = self._charged(prices, temperature)
        for _ in range(_STEPS):
            covered, together = _derivatives(self.groups, shares, free)
            if float(np.abs(covered - 1).max()) <= _SOLVED:
                break
            for step in self._steps(covered, together):
                tried, *weights = self._charged(prices + temperature * step, temperature)
                if tried < value:
                    break
            prices, value, (shares, free) = prices + temperature * step, tried, weights
        return prices

    def _steps(self, covered: Doubles, together: Doubles) -> Iterator[Doubles]:
        """Newton's step, shorter ones, and that of iterative scaling, which is never for the worse, in temperatures."""
        step = _solved(together, covered - 1)
        for halvings in range(_HALVINGS):
            yield step / 2**halvings
        yield np.log(np.maximum(covered, _NOTHING)) / self.groups.shape[1]

    def _charged(self, prices: Doubles, temperature: float) -> tuple[float, Doubles, Doubles]:
        """The sum of prices and charges, and how much of each group and of each channel alone makes up the covering."""
        with np.errstate(over="ignore"):
            shares = np.exp(self.gains(prices) / temperature)
            free = np.exp((self.least - prices) / temperature)
            charged = float(prices.sum() + temperature * (shares.sum() + free.sum()))
        return charged, shares, free


@jit
def _derivatives(groups: Ints, shares: Doubles, free: Doubles) -> tuple[Doubles, Doubles]:
    """How often each channel is covered, ``(channels,)``, and how often each pair is by one group."""
    covered = free.copy()
    together = np.diag(free + _RIDGE)
    for g in range(len(groups)):
        if shares[g] > _NOTHING:
            for i in groups[g]:
                covered[i] += shares[g]
                for j in groups[g]:
                    together[i, j] += shares[g]
    return covered, together


@jit_sums
def _solved(matrix: Doubles, right: Doubles) -> Doubles:
    """``x`` of ``matrix @ x = right``, by Cholesky's factor: the matrix is symmetric and positive.

    LAPACK is no faster at these sizes, its last bits depend on its threads, and they wait for each other.
    """
    size = len(right)
    factor, solution = np.zeros((size, size)), right.copy()
    for i in range(size):
        for j in range(i + 1):
            total = 0.0
            for k in range(np.uint64(j)):
                total += factor[i, k] * factor[j, k]
            left = matrix[i, j] - total
            factor[i, j] = left / factor[j, j] if j < i else np.sqrt(max(left, _RIDGE))
        for k in range(i):
            solution[i] -= factor[i, k] * solution[k]
        solution[i] /= factor[i, i]
    for i in range(size - 1, -1, -1):
        solution[i] /= factor[i, i]
        for k in range(i):
            solution[k] -= factor[i, k] * solution[i]
    return solution
