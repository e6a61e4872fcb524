"""More time is never worse: what a longer limit does begins with all that a shorter one does.

The clock is one that counts work, so that it tells every run the same.
"""

from itertools import pairwise

import numpy as np
import pytest

from sparselab.permutation import SearchProblem, search_permutation
from sparselab.permutation.auto import Auto
from sparselab.permutation.coercion import as_strategy
from sparselab.permutation.judged import JudgedProblem
from sparselab.permutation.judges import judge_of
from sparselab.permutation.strategy import Search
from sparselab.reproduce.random_matrices import authors_matrix

LIMITS = [0.05, 0.1, 0.3, 0.7, 1.2, 2.0]


@pytest.fixture
def clock(monkeypatch):
    """Sets how long one move of one chain takes."""

    def set_(seconds):
        monkeypatch.setattr(Search, "elapsed", lambda search: seconds * search.evaluations)

    return set_


@pytest.mark.parametrize("strategy", ["auto", "annealed_assignment"])
@pytest.mark.parametrize(("rows", "channels", "pattern"), [(128, 64, "2:4"), (48, 96, "1:4"), (16, 136, "4:8")])
def test_a_longer_limit_begins_with_all_that_a_shorter_one_does(clock, strategy, rows, channels, pattern):
    clock(2e-4)
    judge = judge_of(pattern)
    problem = JudgedProblem.of(SearchProblem.from_matrix(authors_matrix(rows, channels)), judge, "cpu")
    histories = []
    for limit in LIMITS:
        search = problem.begin(seed=3, time_limit=limit)
        as_strategy(strategy)(search)
        assert limit <= search.elapsed()
        histories.append([value for _, value in search.history])
    for shorter, longer in pairwise(histories):
        assert longer[: len(shorter)] == shorter
    assert len(histories[-1]) > len(histories[0])


def test_efficacy_does_not_fall_with_time(clock):
    clock(4e-5)
    scores = authors_matrix(128, 64)
    found = [search_permutation(scores, time_limit=limit).efficacy for limit in LIMITS]
    assert found == sorted(found)
    assert found[-1] > 37


@pytest.mark.parametrize(("options", "message"), [({"chains": 0}, "at least 1"), ({"effort": np.inf}, "finite")])
def test_options_of_auto(options, message):
    with pytest.raises(ValueError, match=message):
        Auto(**options)
