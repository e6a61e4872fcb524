"""What a difference is worth: intervals, paired comparisons, rank correlation. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval and a two-sided ``p`` for "it is 0".

    The interval is NaN where there is one value, which says nothing of the spread.
    """

    mean: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        """``"1.20 [0.80, 1.60]"``, the interval only where there is one."""
        return f"{self.mean:.2f}" if np.isnan(self.low) else f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(values: ArrayLike) -> Estimate:
    """The mean of independent ``values`` with Student's 95% interval.

    The p-value is that of the one-sample t-test against 0. For a paired comparison give the
    differences. Raises ``ValueError`` without values.

    >>> str(estimate([1.0, 2.0, 3.0])), str(estimate([2.0]))
    ('2.00 [-0.48, 4.48]', '2.00')
    """
    numbers = np.asarray(values, np.float64)
    if not numbers.size:
        raise ValueError("an estimate needs at least one value")
    mean, freedom = float(numbers.mean()), numbers.size - 1
    if not freedom:
        return Estimate(mean, np.nan, np.nan, np.nan)
    error = float(numbers.std(ddof=1)) / numbers.size**0.5
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Estimate(mean, mean - half, mean + half, p)


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same examples, compared.

    How many only the first, and only the second, gets right, and the exact ``p``.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact test of two boolean arrays that say which examples each classifier gets right.

    Where the two agree says nothing; of the others, each falls on either side with probability 1/2
    if neither is better. Raises ``ValueError`` for arrays of different shapes.

    >>> mcnemar([True, True, True, False], [False, False, False, False])
    McNemar(only_first=3, only_second=0, p=0.25)
    """
    one, two = np.asarray(first, bool), np.asarray(second, bool)
    if one.shape != two.shape:
        raise ValueError(f"paired answers must have one shape, got {one.shape} and {two.shape}")
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ``rho``, the mean over ``runs``, and its two-sided permutation ``p``."""

    rho: float
    p: float
    runs: int


def rank_correlation(
    x: Sequence[ArrayLike], y: Sequence[ArrayLike], *, permutations: int = 9_999, seed: int = 0
) -> RankCorrelation:
    """Spearman's correlation within each run, averaged, for runs (networks, seeds) that differ in level.

    ``x`` and ``y`` hold an array a run. Pooling the points of all runs would count the difference
    between networks as evidence, so the p-value comes from shuffling ``y`` within its run: the
    share of ``permutations`` random shuffles (and the data itself) whose mean correlation is as far
    from 0. Runs without any variation count as 0. Deterministic for ``seed``.

    >>> round(rank_correlation([[1, 2, 3, 4, 5]], [[10, 20, 30, 40, 50]]).rho, 6)
    1.0
    """
    if not len(x) or [len(np.asarray(run)) for run in x] != [len(np.asarray(run)) for run in y]:
        raise ValueError("a rank correlation needs at least one run, and as many x as y in each")
    rng = np.random.default_rng(seed)
    observed, shuffled = 0.0, np.zeros(permutations)
    for one, two in zip(x, y):
        left, right = _standard_ranks(one), _standard_ranks(two)
        observed += float(left @ right) / len(x)
        order = np.argsort(rng.random((permutations, len(right))), axis=1)
        shuffled += right[order] @ left / len(x)
    extreme = int((np.abs(shuffled) >= abs(observed) - 1e-12).sum())
    return RankCorrelation(observed, (extreme + 1) / (permutations + 1), len(x))


def _standard_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks (ties share theirs) moved and scaled so that products of two sum to their correlation."""
    ranks: NDArray[np.float64] = stats.rankdata(np.asarray(values, np.float64))
    centred = ranks - ranks.mean()
    length = float(np.linalg.norm(centred))
    standard: NDArray[np.float64] = centred / length if length else centred
    return standard
