"""Every strategy, whatever it is, keeps these promises."""

import itertools

import numpy as np
import pytest
import torch

from sparselab.permutation import STRATEGIES, SearchProblem, Term, search_permutation, search_permutations

SPECS = [
    "identity",
    "random,20",
    "channel_swap,0",
    "channel_swap,5",
    "stripe_groups,escapes=3",
    "exhaustive",
    "optimal",
    "assignment",
    "assignment,snake",
    "anneal,2000",
    "annealed_assignment,50",
    "auto",
]


def recount(matrix, order, n, m):
    """Retained saliency from the definition, in float64."""
    total = 0.0
    for row in np.asarray(matrix, np.float64)[:, order]:
        for start in range(0, len(row), m):
            total += sum(sorted(row[start : start + m])[m - n :])
    return total


@pytest.fixture(params=SPECS)
def spec(request):
    return request.param


def test_every_registered_strategy_is_in_the_contract():
    assert {spec.split(",")[0] for spec in SPECS} == set(STRATEGIES.names())


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "1:2", "4:8"])
def test_order_is_a_bijection_and_values_are_true(spec, pattern):
    n, m = map(int, pattern.split(":"))
    matrix = np.random.default_rng(3).random((12, 16))
    before = matrix.copy()
    result = search_permutation(matrix, pattern, strategy=spec, seed=5)
    assert (matrix == before).all()
    assert result.order.dtype == np.int64
    assert sorted(result.order) == list(range(16))
    assert result.retained == pytest.approx(recount(matrix, result.order, n, m), rel=1e-12)
    assert result.baseline == pytest.approx(recount(matrix, np.arange(16), n, m), rel=1e-12)
    assert result.ideal == pytest.approx(np.sort(matrix, axis=1)[:, 16 * (m - n) // m :].sum(), rel=1e-12)
    assert result.baseline <= result.retained <= result.ideal
    assert 0 <= result.efficacy <= 100
    values = [value for _, value in result.history]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(result.retained, rel=1e-5)
    again = search_permutation(matrix, pattern, strategy=spec, seed=5)
    assert (again.order == result.order).all()


def test_the_number_of_threads_changes_nothing(spec):
    if spec == "exhaustive":
        matrix = np.random.default_rng(0).random((20, 16))
    else:
        matrix = np.random.default_rng(0).random((20, 32))
    threads = torch.get_num_threads()
    orders = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            orders.append(search_permutation(matrix, strategy=spec, seed=1).order)
    finally:
        torch.set_num_threads(threads)
    assert (orders[0] == orders[1]).all()


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((4, 16)),
        np.zeros((0, 16)),
        np.tile([1.0, 1, 0, 0], (8, 4)),
        np.repeat(np.random.default_rng(0).random((8, 4)), 4, axis=1),
        np.random.default_rng(0).random((8, 16)) * 1e-30,
        np.random.default_rng(0).random((8, 16)) * 1e30,
        np.random.default_rng(0).random((8, 16)) * 1e-200,
        np.random.default_rng(0).random((3, 4)),
    ],
    ids=["zero", "no-rows", "sparse", "duplicates", "tiny", "huge", "minute", "one-group"],
)
def test_degenerate_matrices(spec, matrix):
    result = search_permutation(matrix, strategy=spec)
    assert sorted(result.order) == list(range(matrix.shape[1]))
    assert result.retained >= result.baseline
    assert np.isfinite([result.efficacy, result.retained, result.ideal]).all()
    assert result.retained == pytest.approx(recount(matrix, result.order, 2, 4), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(spec, dtype):
    weight = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = weight.clone()
    result = search_permutation(weight, strategy=spec)
    assert torch.equal(weight, before)
    matrix = weight.permute(2, 3, 0, 1).reshape(-1, 16).abs().double().numpy()
    assert result.retained == pytest.approx(recount(matrix, result.order, 2, 4), rel=1e-12)


def mixed_problem():
    """Two consumers: one whole, one the units enter twice beside columns that stay, the second time straddling."""
    rng = np.random.default_rng(7)
    one, two = rng.random((6, 12)), torch.from_numpy(rng.random((5, 32)))
    terms = (Term(one, np.arange(12)), Term(two, np.arange(4, 16), 0.5), Term(two, np.arange(18, 30), 0.5))
    return SearchProblem(terms, 12), one, two.numpy()


def test_terms_that_share_groups_with_columns_that_stay(spec):
    problem, one, two = mixed_problem()
    result = search_permutation(problem, strategy=spec)
    columns = np.arange(32)
    columns[4:16], columns[18:30] = 4 + result.order, 18 + result.order
    true = recount(one, result.order, 2, 4) + 0.5 * recount(two, columns, 2, 4)
    assert result.retained == pytest.approx(true, rel=1e-12)
    assert result.retained >= result.baseline == pytest.approx(problem.retained(None), rel=1e-12)


def test_nothing_to_search_is_the_identity(spec):
    problem = SearchProblem((Term(np.random.default_rng(0).random((4, 12)), np.arange(1, 11)),), 10)
    result = search_permutation(problem, strategy=spec)
    assert sorted(result.order) == list(range(10))
    assert result.retained >= result.baseline


def test_bounds_hold(spec):
    matrix = np.random.default_rng(2).random((10, 12))
    result = search_permutation(matrix, strategy=spec, bound=True)
    assert result.retained <= result.upper_bound <= result.ideal
    best = max(recount(matrix, list(order), 2, 4) for order in partitions_of(range(12), 4))
    assert result.upper_bound == pytest.approx(best, rel=1e-5)
    assert 0 <= result.gap <= (best - result.baseline) / result.baseline
    assert result.bound_efficacy >= result.efficacy - 1e-9


def partitions_of(channels, m):
    """Every order that differs in more than the order of groups or within them."""
    channels = list(channels)
    if not channels:
        yield []
        return
    for others in itertools.combinations(channels[1:], m - 1):
        group = [channels[0], *others]
        for rest in partitions_of([c for c in channels if c not in group], m):
            yield group + rest


def test_a_batch_is_its_members(spec):
    matrices = [np.random.default_rng(seed).random((8, 16)) for seed in range(3)]
    batch = search_permutations(matrices, strategy=spec, seed=4)
    for number, (matrix, result) in enumerate(zip(matrices, batch)):
        assert (result.order == search_permutation(matrix, strategy=spec, seed=4 + number).order).all()
