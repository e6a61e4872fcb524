import numpy as np
import pytest

from sparselab.permutation import SearchProblem, search_permutation
from sparselab.permutation.probes import intermediate_orders, minimum_sparsity, prune_smallest


def test_prune_smallest():
    matrix = np.array([[3.0, -1.0], [2.0, -4.0]])
    assert prune_smallest(matrix, 0.5).tolist() == [[3.0, 0.0], [0.0, -4.0]]
    assert prune_smallest(matrix, 0).tolist() == matrix.tolist()
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1.5"):
        prune_smallest(matrix, 1.5)


def test_minimum_sparsity_against_trying_them_all():
    matrix = np.random.default_rng(0).random((6, 8))

    def search(pruned):
        return search_permutation(pruned, strategy="channel_swap", backend="reference")

    found = minimum_sparsity(matrix, search)
    free = [
        percent
        for percent in range(101)
        if np.isclose(
            search(prune_smallest(matrix, percent / 100)).retained, prune_smallest(matrix, percent / 100).sum()
        )
    ]
    assert found in free
    assert found - 1 not in free


def test_intermediate_orders_are_orders_on_the_way():
    matrix = np.random.default_rng(1).random((16, 32))
    problem = SearchProblem.from_matrix(matrix)
    result = search_permutation(matrix, strategy="channel_swap", backend="reference")
    orders = intermediate_orders(problem, result.order, "2:4", 3)
    assert all(sorted(order) == list(range(32)) for order in orders)
    retained = np.array([problem.retained(order, "2:4") for order in orders])
    targets = np.linspace(result.baseline, result.retained, 5)[1:-1]
    assert np.abs(retained - targets).max() < 0.15 * (result.retained - result.baseline)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        intermediate_orders(problem, result.order, "2:4", 0)
