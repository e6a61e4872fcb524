"""What every search strategy must do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparselab.permutation import (
    SearchProblem,
    SearchResult,
    Strategy,
    Term,
    search_permutation,
    search_permutations,
)

Matrix = NDArray[np.float64]

_DEGENERATE: dict[str, Matrix] = {
    "zero": np.zeros((4, 16)),
    "no rows": np.zeros((0, 16)),
    "sparse": np.tile([1.0, 1, 0, 0], (8, 4)),
    "duplicates": np.repeat(np.random.default_rng(0).random((8, 4)), 4, axis=1),
    "tiny": np.random.default_rng(0).random((8, 16)) * 1e-30,
    "huge": np.random.default_rng(0).random((8, 16)) * 1e30,
    "minute": np.random.default_rng(0).random((8, 16)) * 1e-200,
    "one group": np.random.default_rng(0).random((3, 4)),
}


class StrategyContract:
    """The promises of a strategy; a subclass says in the fixture ``strategy`` which ones it tests.

    A strategy that takes only so many channels sets ``most_channels``.
    """

    most_channels: int | None = None

    @pytest.fixture
    def strategy(self) -> str | Strategy:
        """What is tested: a name with options, or the object."""
        raise NotImplementedError("override the fixture 'strategy': return a strategy or its name")

    @pytest.mark.parametrize("pattern", ["2:4", "1:4", "1:2", "4:8"])
    def test_order_is_a_bijection_and_values_are_true(self, strategy: str | Strategy, pattern: str) -> None:
        """What the result says is what a recount says; the same seed finds the same order."""
        n, m = map(int, pattern.split(":"))
        matrix = np.random.default_rng(3).random((12, 16))
        before = matrix.copy()
        result = search_permutation(matrix, pattern, strategy=strategy, seed=5)
        assert (matrix == before).all()
        assert result.order.dtype == np.int64
        assert sorted(result.order) == list(range(16))
        assert result.retained == pytest.approx(recount(matrix, result.order, n, m), rel=1e-12)
        assert result.baseline == pytest.approx(recount(matrix, np.arange(16), n, m), rel=1e-12)
        assert result.ideal == pytest.approx(np.sort(matrix, axis=1)[:, 16 * (m - n) // m :].sum(), rel=1e-12)
        assert result.baseline <= result.retained <= result.ideal
        assert 0 <= result.efficacy <= 100
        again = search_permutation(matrix, pattern, strategy=strategy, seed=5)
        assert (again.order == result.order).all()

    @pytest.mark.parametrize("size", [1.0, 3e4, 1e-6])
    def test_a_history_never_falls_and_ends_at_what_is_retained(self, strategy: str | Strategy, size: float) -> None:
        """From the baseline on, whatever a search counts in float32."""
        matrix = np.random.default_rng(8).random((37, 16)) * size
        heard: list[float] = []
        result = search_permutation(matrix, strategy=strategy, callback=lambda _, retained: heard.append(retained))
        seconds, values = (list(column) for column in zip(*result.history))
        assert seconds == sorted(seconds)
        assert values == sorted(values)
        assert values[0] == result.baseline
        assert values[-1] == result.retained
        assert heard == sorted(heard)

    def test_the_number_of_threads_changes_nothing(self, strategy: str | Strategy) -> None:
        """Blocks, not threads, decide the order of sums."""
        matrix = np.random.default_rng(0).random((20, min(32, self.most_channels or 32)))
        threads = torch.get_num_threads()
        orders = []
        try:
            for count in (1, 3):
                torch.set_num_threads(count)
                orders.append(search_permutation(matrix, strategy=strategy, seed=1).order)
        finally:
            torch.set_num_threads(threads)
        assert (orders[0] == orders[1]).all()

    @pytest.mark.parametrize("kind", list(_DEGENERATE))
    def test_degenerate_matrices(self, strategy: str | Strategy, kind: str) -> None:
        """Nothing to gain, nothing to see, numbers at the ends of what floats hold."""
        matrix = _DEGENERATE[kind]
        result = search_permutation(matrix, strategy=strategy)
        assert sorted(result.order) == list(range(matrix.shape[1]))
        assert result.retained >= result.baseline
        assert np.isfinite([result.efficacy, result.retained, result.ideal]).all()
        assert result.retained == pytest.approx(recount(matrix, result.order, 2, 4), rel=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes(self, strategy: str | Strategy, dtype: torch.dtype) -> None:
        """Weights of any layer and float dtype, which are left as they are."""
        weight = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        before = weight.clone()
        result = search_permutation(weight, strategy=strategy)
        assert torch.equal(weight, before)
        matrix = weight.permute(2, 3, 0, 1).reshape(-1, 16).abs().double().numpy()
        assert result.retained == pytest.approx(recount(matrix, result.order, 2, 4), rel=1e-12)

    def test_terms_that_share_groups_with_columns_that_stay(self, strategy: str | Strategy) -> None:
        """One consumer whole; one that the units enter twice, the second time straddling groups."""
        rng = np.random.default_rng(7)
        one, two = rng.random((6, 12)), rng.random((5, 32))
        shared = torch.from_numpy(two)
        problem = SearchProblem(
            (Term(one, np.arange(12)), Term(shared, np.arange(4, 16), 0.5), Term(shared, np.arange(18, 30), 0.5)), 12
        )
        result = search_permutation(problem, strategy=strategy)
        columns = np.arange(32)
        columns[4:16], columns[18:30] = 4 + result.order, 18 + result.order
        true = recount(one, result.order, 2, 4) + 0.5 * recount(two, columns, 2, 4)
        assert result.retained == pytest.approx(true, rel=1e-12)
        assert result.retained >= result.baseline == pytest.approx(problem.retained(None), rel=1e-12)

    def test_nothing_to_search_is_the_identity(self, strategy: str | Strategy) -> None:
        """Units that fill no whole group."""
        problem = SearchProblem((Term(np.random.default_rng(0).random((4, 12)), np.arange(1, 11)),), 10)
        result = search_permutation(problem, strategy=strategy)
        assert sorted(result.order) == list(range(10))
        assert result.retained >= result.baseline

    def test_bounds_hold(self, strategy: str | Strategy) -> None:
        """Against every order there is."""
        matrix = np.random.default_rng(2).random((10, 12))
        result = search_permutation(matrix, strategy=strategy, bound=True)
        assert result.upper_bound is not None
        assert result.retained <= result.upper_bound <= result.ideal
        best = max(recount(matrix, order, 2, 4) for order in partitions_of(range(12), 4))
        assert result.upper_bound == pytest.approx(best, rel=1e-5)
        assert 0 <= _known(result.gap) <= (best - result.baseline) / result.baseline
        assert _known(result.bound_efficacy) >= result.efficacy - 1e-9

    def test_a_batch_is_its_members(self, strategy: str | Strategy) -> None:
        """Side by side or one after the other: the same orders."""
        matrices = [np.random.default_rng(seed).random((8, 16)) for seed in range(3)]
        batch: list[SearchResult] = search_permutations(matrices, strategy=strategy, seed=4)
        for number, (matrix, result) in enumerate(zip(matrices, batch)):
            assert (result.order == search_permutation(matrix, strategy=strategy, seed=4 + number).order).all()


def recount(matrix: Any, order: Any, n: int, m: int) -> float:
    """Retained saliency from the definition, in float64."""
    total = 0.0
    for row in np.asarray(matrix, np.float64)[:, order]:
        for start in range(0, len(row), m):
            total += sum(sorted(row[start : start + m])[m - n :])
    return total


def partitions_of(channels: Sequence[int], m: int) -> Iterator[list[int]]:
    """Every order that differs in more than the order of groups or within them."""
    first, *others = channels if len(channels) else (None,)
    if first is None:
        yield []
        return
    for chosen in itertools.combinations(others, m - 1):
        for rest in partitions_of([c for c in others if c not in chosen], m):
            yield [first, *chosen, *rest]


def _known(value: float | None) -> float:
    assert value is not None
    return value
