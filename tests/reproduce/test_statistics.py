"""Intervals, McNemar and rank correlation against scipy and against counting by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparselab.reproduce.sources import MEASURED, MISSING, QUOTED, cell
from sparselab.reproduce.statistics import estimate, mcnemar, rank_correlation

numbers = st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=2, max_size=12)


@settings(max_examples=40, deadline=None)
@given(numbers.filter(lambda values: np.std(values) > 1e-3))
def test_an_estimate_is_scipys(values):
    ours = estimate(values)
    test = stats.ttest_1samp(values, 0)
    interval = test.confidence_interval(0.95)
    assert ours.p == pytest.approx(test.pvalue, abs=1e-12)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((np.mean(values), interval.low, interval.high), abs=1e-6)


def test_a_difference_of_pairs_is_scipys_paired_test():
    rng = np.random.default_rng(0)
    one, two = rng.normal(80, 3, 8), rng.normal(81, 3, 8)
    assert estimate(one - two).p == pytest.approx(stats.ttest_rel(one, two).pvalue)


def test_what_one_value_and_equal_values_say():
    assert math.isnan(estimate([3.0]).low)
    assert math.isnan(estimate([3.0]).p)
    assert estimate([2.0, 2.0]).p == 0
    assert estimate([0.0, 0.0]).p == 1
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 0), (5, 2), (1, 9), (6, 6)])
def test_mcnemar_by_counting_every_way_the_coins_fall(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, False, True]
    second = [False] * only_first + [True] * only_second + [True, False, True]
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    count, seen = only_first + only_second, abs(only_first - only_second)
    extreme = sum(math.comb(count, k) for k in range(count + 1) if abs(2 * k - count) >= seen)
    assert found.p == pytest.approx(extreme / 2**count)


def test_mcnemar_needs_the_same_examples():
    with pytest.raises(ValueError, match="one shape"):
        mcnemar([True], [True, False])


def test_one_runs_correlation_is_spearmans():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=9), rng.integers(0, 4, 9)  # with ties
    found = rank_correlation([x], [y])
    expected = stats.spearmanr(x, y)
    assert found.rho == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.05)  # exact by shuffling against an approximation


def test_the_p_value_is_the_share_of_all_shuffles():
    x, y = [1, 2, 3, 4, 5], [2, 1, 3, 5, 4]
    every = [abs(stats.spearmanr(x, order).statistic) for order in itertools.permutations(y)]
    exact = np.mean(np.array(every) >= abs(stats.spearmanr(x, y).statistic) - 1e-12)
    assert rank_correlation([x], [y], permutations=40_000).p == pytest.approx(exact, abs=0.01)


def test_differences_between_runs_are_no_evidence():
    rng = np.random.default_rng(2)
    levels = [0, 100, 200, 300]
    x = [level + rng.normal(size=5) for level in levels]
    y = [level + rng.normal(size=5) for level in levels]
    assert stats.spearmanr(np.concatenate(x), np.concatenate(y)).pvalue < 1e-6
    assert rank_correlation(x, y).p > 0.05
    rising = [np.arange(5.0) + level for level in levels]
    assert rank_correlation(rising, rising).p < 0.001
    assert rank_correlation([[1, 2, 3]], [[7, 7, 7]]).rho == 0


def test_rank_correlation_refuses_unequal_runs():
    with pytest.raises(ValueError, match="as many x as y"):
        rank_correlation([[1, 2]], [[1, 2, 3]])
    with pytest.raises(ValueError, match="at least one run"):
        rank_correlation([], [])


def test_marks_tell_the_sources_apart():
    assert (cell(1.234), cell(1.234, ".1f", QUOTED), cell(1.0, ".1f", MISSING)) == ("1.23", "*1.2*", "n/a")
    assert cell(float("nan"), ".1f", MEASURED) == "n/a"
    with pytest.raises(ValueError, match="unknown source"):
        cell(1.0, ".1f", "guessed")
