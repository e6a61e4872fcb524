"""Orders judged by errors, against sums over all sets of entries and all groupings, from their definition."""

from itertools import combinations

import numpy as np
import pytest
import torch

import sparselab as sl
from sparselab.core.weight_matrix import from_matrix as sl_from_matrix
from sparselab.core.weight_matrix import to_matrix
from sparselab.ops.errors import load
from sparselab.permutation import SearchProblem, Term
from sparselab.permutation.row_moments import RowMoments, forms
from sparselab.permutation.strategy import STRATEGIES
from sparselab.statistics import SecondMoments
from sparselab.testing.strategies import partitions_of

PATTERNS = [(2, 4), (3, 4), (1, 4), (1, 3), (2, 3), (1, 2), (6, 8)]


def moments_of(rng, channels, samples=40):
    mixing = rng.normal(size=(channels, channels)) * rng.exponential(size=channels)
    inputs = rng.normal(size=(samples, channels)) @ mixing
    return inputs.T @ inputs


def second_moments(sums, shape, channel_dim=1, count=40):
    return SecondMoments(torch.as_tensor(sums), (count,) * len(sums), shape, channel_dim)


def masked_error(row, lost, h):
    return row[list(lost)] @ h[np.ix_(lost, lost)] @ row[list(lost)]


def updated_error(row, lost, h):
    """The least ``d^T H d`` with ``d = -row`` at ``lost`` and everything else free."""
    free = [c for c in range(len(row)) if c not in lost]
    change = np.zeros(len(row))
    change[list(lost)] = -row[list(lost)]
    change[free] = -np.linalg.solve(h[np.ix_(free, free)], h[np.ix_(free, lost)] @ change[list(lost)])
    return change @ h @ change


def least_errors(weight, h, order, n, m, error):
    return sum(
        min(error(row, lost, h) for lost in combinations(group, m - n))
        for row in weight
        for group in np.asarray(order).reshape(-1, m).tolist()
    )


CASES = {"masked": (RowMoments.masked, masked_error), "updated": (RowMoments.updated_by, updated_error)}


def case(name, weight, sums):
    make, error = CASES[name]
    options = {"damping": 0.0} if name == "updated" else {}
    return make(second_moments(sums[None], weight.shape), **options), error


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_what_an_order_is_worth_is_a_constant_less_the_least_errors(name, n, m):
    rng = np.random.default_rng(m * n)
    weight, h = rng.normal(size=(5, 3 * m)), moments_of(rng, 3 * m)
    moments, error = case(name, weight, h)
    problem = SearchProblem.from_matrix(weight, moments)
    orders = [np.arange(3 * m), rng.permutation(3 * m), rng.permutation(3 * m)]
    errors = [least_errors(weight, h, order, n, m, error) for order in orders]
    worths = [problem.retained(order, f"{n}:{m}") for order in orders]
    assert np.add(worths, errors) == pytest.approx(problem.ideal(f"{n}:{m}"), rel=1e-9)
    if name == "masked":
        total = (weight**2 * np.diag(h)).sum() * max(1, (m - n) ** 2 / m)
        assert problem.ideal(f"{n}:{m}") == pytest.approx(total, rel=1e-9)
        assert min(worths) >= 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_primitives_are_their_definitions(name, n, m):
    """Tables and completions of the fast backend against the worth of whole groups in float64, several kinds of rows."""
    rng = np.random.default_rng(m + n)
    channels = 3 * m
    both = [case(name, rng.normal(size=(6, channels)), moments_of(rng, channels)) for _ in range(2)]
    parts = [(rng.normal(size=(6, channels)), moments, 0.7) for moments, _ in both]
    exact = load(forms(parts, channels), n, m, "reference")
    fast = load(forms(parts, channels), n, m, "cpu")
    order = rng.permutation(channels)
    worth = exact.group_table(order.reshape(-1, m))
    assert fast.group_table(order.reshape(-1, m)) * fast.scale == pytest.approx(worth, rel=1e-4)
    slots, given = np.arange(channels), rng.permutation(channels)
    elsewhere = order.reshape(-1, m)[slots // m][:, None] != given[None, :, None]
    elsewhere = elsewhere.all(axis=2)
    table = fast.table(order, slots, given) * fast.scale
    assert table[elsewhere] == pytest.approx(exact.table(order, slots, given)[elsewhere], rel=2e-4)
    if m > 1 + (m - n > 2):
        prefix = order[None, : m - 1]
        others = np.setdiff1d(np.arange(channels), prefix)
        found = fast.completions(prefix)[0, others] * fast.scale
        assert found == pytest.approx(exact.completions(prefix)[0, others], rel=2e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_strategies_find_what_trying_every_grouping_finds(name, strategy):
    """8 channels: 35 groupings; heuristics end no worse than they began, and near it."""
    rng = np.random.default_rng(5)
    weight, h = rng.normal(size=(7, 8)), moments_of(rng, 8)
    moments, error = case(name, weight, h)
    best = min(least_errors(weight, h, order, 2, 4, error) for order in partitions_of(range(8), 4))
    options = {"anneal": ",200", "random": ",200"}
    result = sl.search_permutation(
        SearchProblem.from_matrix(weight, moments), strategy=strategy + options.get(strategy, "")
    )
    left = result.ideal - result.retained
    assert left == pytest.approx(least_errors(weight, h, result.order, 2, 4, error), rel=1e-6)
    assert result.baseline <= result.retained
    if strategy not in ("identity", "channel_swap", "assignment"):
        assert left == pytest.approx(best, rel=1e-5)
    assert 100 * (1 - left / least_errors(weight, h, range(8), 2, 4, error)) == pytest.approx(result.efficacy, abs=1e-3)


def test_auto_goes_on_from_what_scores_alone_find():
    """It ends no worse than the best order by each entry's own error, which it begins with."""
    rng = np.random.default_rng(1)
    weight, h = rng.normal(size=(24, 32)), moments_of(rng, 32, samples=20)
    problem = SearchProblem.from_matrix(weight, RowMoments.masked(second_moments(h[None], weight.shape)))
    alone = sl.search_permutation(torch.from_numpy(weight**2 * np.diag(h)))
    result = sl.search_permutation(problem)
    assert result.retained > problem.retained(alone.order) > result.baseline
    assert (result.order == sl.search_permutation(problem).order).all()


LAYERS = [
    ((6, 8), 1, 1),  # Linear
    ((8, 6), 0, 1),  # GPT-2's
    ((6, 8, 3, 2), 1, 1),
    ((6, 4, 2, 2), 1, 2),  # two groups, each with its own inputs
    ((8, 3, 2, 2), 0, 2),  # transposed
    ((3, 5, 4), -1, 3),  # experts
    ((3, 4, 5), -2, 3),
]


@pytest.mark.parametrize(("shape", "channel_dim", "groups"), LAYERS)
def test_every_row_meets_its_own_block(shape, channel_dim, groups):
    """Losing single entries and pairs of one row changes the layer's output energy as its moments say."""
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(size=shape))
    width = SecondMoments(torch.zeros(groups, 1, 1), (1,) * groups, shape, channel_dim).rows(weight).shape[2]
    moments = second_moments(np.stack([moments_of(rng, width) for _ in range(groups)]), shape, channel_dim)
    found = RowMoments.masked(moments)
    matrix = to_matrix(weight, channel_dim)
    found.check(*matrix.shape, "weight")
    for row in range(len(matrix)):
        for pair in ([0, 1], [1, 3], [2, matrix.shape[1] - 1]):
            lost = torch.zeros_like(matrix)
            lost[row, pair] = matrix[row, pair]
            at = moments.rows(sl_from_matrix(lost, weight.shape, channel_dim))
            energy = float(((at @ moments.sums) * at).sum())
            h = found.matrices[found.of[row]][np.ix_(pair, pair)]
            w = matrix[row, pair].numpy()
            assert w @ h @ w == pytest.approx(energy, rel=1e-9)


def test_a_weight_and_its_moments_are_searched_by_name():
    rng = np.random.default_rng(2)
    weight = torch.from_numpy(rng.normal(size=(6, 8)))
    moments = second_moments(moments_of(rng, 8)[None], (6, 8))
    h = moments.sums[0].numpy()
    energy = float(((weight @ moments.sums[0]) * weight).sum())
    for objective, error in (("error", masked_error), ("updated_error,damping=0", updated_error)):
        result = sl.search_permutation(weight, objective=objective, moments=moments)
        left = least_errors(weight.numpy(), h, result.order, 2, 4, error)
        assert result.ideal - result.retained == pytest.approx(left / energy, rel=1e-6)


REFUSED = [
    ({"objective": "error"}, "needs second moments"),
    ({"moments": "some"}, "moments are for an objective"),
    ({"objective": "errors", "moments": "some"}, "unknown objective"),
    ({"objective": "error", "moments": "some", "saliency": torch.abs}, "one of the two"),
    ({"objective": "error", "moments": "some", "pattern": "m4n2_2d_best"}, "2d masks"),
    ({"objective": "error", "moments": "some", "backend": "cuda"}, "cuda"),
    ({"objective": "updated_error,damping=-1", "moments": "some"}, "damping"),
    ({"objective": "error", "moments": "nan"}, "not finite"),
    ({"objective": "error", "moments": "other"}, "second moments of a weight of shape"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_judged_is_refused(options, message):
    sums = np.eye(8)[None]
    kinds = {
        "some": second_moments(sums, (4, 8)),
        "nan": second_moments(sums * np.nan, (4, 8)),
        "other": second_moments(sums, (5, 8)),
    }
    if isinstance(options.get("moments"), str):
        options = {**options, "moments": kinds[options["moments"]]}
    with pytest.raises(ValueError, match=message):
        sl.search_permutation(torch.ones(4, 8), **options)


def test_terms_are_judged_by_the_same():
    moments = RowMoments.masked(second_moments(np.eye(8)[None], (4, 8)))
    scores = np.ones((4, 8))
    with pytest.raises(ValueError, match="all by the same"):
        SearchProblem((Term(scores, np.arange(8)), Term(scores.copy(), np.arange(8), moments=moments)), 8)
    with pytest.raises(ValueError, match="do not belong to 12 channels"):
        SearchProblem.from_matrix(np.ones((4, 12)), moments)
