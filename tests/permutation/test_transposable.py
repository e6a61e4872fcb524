"""Orders judged by 2d masks: the primitives against brute force, the strategies' promises, and networks."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import sparselab as sl
from sparselab.ops import transposable_matrix
from sparselab.ops.reference import ReferenceMatrix
from sparselab.permutation import SearchProblem, Term, search_permutation


def recount(matrix, order, n, m):
    """What the best 2d masks retain, from the definition."""
    rows = [np.isin(range(m), kept) for kept in itertools.combinations(range(m), n)]
    choices = [np.array(c) for c in itertools.product(rows, repeat=m) if (np.sum(c, axis=0) == n).all()]
    moved, total = np.asarray(matrix, np.float64)[:, order], 0.0
    for top, left in itertools.product(range(0, moved.shape[0], m), range(0, moved.shape[1], m)):
        total += max((moved[top : top + m, left : left + m] * choice).sum() for choice in choices)
    return total


@given(sizes=st.sampled_from([(2, 4), (1, 4), (3, 4), (2, 3), (1, 2), (4, 4)]), seed=st.integers(0, 2**31))
@settings(max_examples=12, deadline=None)
def test_primitives_agree_with_their_definitions(sizes, seed):
    n, m = sizes
    rng = np.random.default_rng(seed)
    values = rng.random((4 * m, 2 * m)) * 1000
    matrix = transposable_matrix.load(values.astype(np.float32), n, m)
    order = rng.permutation(4 * m)
    assert matrix.retained(order) * matrix.scale == pytest.approx(recount(values.T, order, n, m), rel=1e-5)
    slots, channels = rng.permutation(4 * m)[:m], rng.permutation(4 * m)
    elsewhere = (order.reshape(4, m)[slots // m][:, :, None] != channels).all(1)
    found, expected = matrix.table(order, slots, channels), ReferenceMatrix.table(matrix, order, slots, channels)
    np.testing.assert_allclose(found[elsewhere], expected[elsewhere], atol=1e-4 * matrix.retained(order))
    prefixes = order.reshape(4, m)[:, :-1]
    np.testing.assert_allclose(
        matrix.completions(prefixes)[0, order[m - 1]], matrix.group_table(order[None, :m])[0], rtol=1e-5
    )


STRATEGIES = ["identity", "random,5", "channel_swap,2", "stripe_groups", "exhaustive", "optimal", "assignment"]
STRATEGIES += ["anneal,200", "annealed_assignment,20", "auto"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_searches_orders_for_2d_masks(strategy):
    matrix = np.random.default_rng(0).random((8, 12))
    result = search_permutation(matrix, "m4n2_2d_best", strategy=strategy, seed=3)
    assert result.retained == pytest.approx(recount(matrix, result.order, 2, 4), rel=1e-12)
    assert result.baseline == pytest.approx(recount(matrix, np.arange(12), 2, 4), rel=1e-12)
    assert result.baseline <= result.retained <= result.ideal
    again = search_permutation(matrix, "m4n2_2d_best", strategy=strategy, seed=3)
    assert (again.order == result.order).all()


def test_two_groups_are_solved_by_trying_all_orders():
    matrix = np.random.default_rng(1).random((8, 8))
    best = max(
        recount(matrix, [*first, *(c for c in range(8) if c not in first)], 2, 4)
        for first in itertools.combinations(range(8), 4)
    )
    assert search_permutation(matrix, "m4n2_2d_best").retained == pytest.approx(best, rel=1e-12)


def test_orders_for_2d_masks_beat_those_for_masks_along_the_channels():
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    along = search_permutation(matrix, "2:4")
    both = search_permutation(matrix, "m4n2_2d_best")
    problem = SearchProblem.from_matrix(matrix.abs())
    assert both.baseline < problem.retained(along.order, "m4n2_2d_best") < both.retained
    mask = sl.create_mask(matrix[:, both.order], "m4n2_2d_best")
    assert both.retained == pytest.approx(float(matrix[:, both.order].abs()[mask].sum()), rel=1e-5)


def test_units_that_do_not_fill_groups_are_counted():
    matrix = np.random.default_rng(2).random((8, 12))
    problem = SearchProblem((Term(matrix, np.arange(2, 10)),), 8)
    result = search_permutation(problem, "m4n2_2d_best", strategy="random,20")
    moved = np.r_[0, 1, 2 + result.order, 10, 11]
    assert result.retained == pytest.approx(recount(matrix, moved, 2, 4), rel=1e-12)


def test_rows_must_divide():
    with pytest.raises(ValueError, match="6 rows do not divide into blocks of 4: pad the scores"):
        search_permutation(np.ones((6, 8)), "m4n2_2d_best")


class Residual(nn.Module):
    """One axis is rows and columns of the same weight, another rows of one weight and columns of the next."""

    def __init__(self):
        super().__init__()
        self.first, self.square = nn.Linear(8, 16), nn.Linear(16, 16)
        self.wide, self.last = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.wide(x + torch.relu(self.square(x)))))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 1)
    )


def total(model, pattern="m4n2_2d_best"):
    return float(sl.magnitude_report(model, pattern)["retained"].sum())


@pytest.mark.parametrize(
    ("make", "inputs"), [(Residual, torch.randn(3, 8)), (convolutions, torch.randn(2, 3, 7, 7))], ids=["linear", "conv"]
)
def test_a_network_retains_more_than_with_either_start(make, inputs):
    models = []
    for pattern in (None, "2:4", "m4n2_2d_best"):
        torch.manual_seed(0)
        models.append(make().eval())
        if pattern:
            before = models[-1](inputs)
            report = sl.permute(models[-1], inputs, pattern)
            torch.testing.assert_close(models[-1](inputs), before, atol=1e-5, rtol=1e-5)
    dense, along, both = map(total, models)
    assert both > max(dense, along)
    counted = report.frame.dropna(subset=["baseline"])
    assert counted["retained"].sum() == pytest.approx(both, rel=1e-6)
    assert counted["baseline"].sum() == pytest.approx(dense, rel=1e-6)
    assert report.retained_gain == pytest.approx(both / dense - 1, rel=1e-4)


def test_rows_that_no_sparse_weight_reads_move_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))  # 5 outputs: the second is not 2d sparse
    before = total(model)
    report = sl.permute(model, torch.randn(2, 8), "m4n2_2d_best")
    assert report.frame["status"].tolist() == ["permuted", "pinned"]
    assert total(model) > before
    assert report.retained_gain == pytest.approx(total(model) / before - 1, rel=1e-5)


def test_a_sparsifier_permutes_for_its_own_2d_masks():
    torch.manual_seed(0)
    model = Residual()
    sparsifier = sl.Sparsifier(model, "m4n2_2d_best", example_inputs=torch.randn(2, 8))
    sparsifier.compute()
    assert sparsifier.permutation_report.pattern == "m4n2_2d_best"
    for pattern in ("m4n2_2d_fast", "m8n4_2d_best", "4:2:8"):
        model = Residual()
        sparsifier = sl.Sparsifier(model, pattern, example_inputs=torch.randn(2, 8))
        sparsifier.compute()
        assert sparsifier.permutation_report.pattern == (
            "2:4" if "m4" in pattern else "4:8" if "m8" in pattern else "2:8"
        )


@pytest.mark.parametrize("pattern", ["m8n4_2d_best", "m4n2_2d_fast", "64:2:8"])
def test_patterns_that_permute_cannot_judge(pattern):
    with pytest.raises(ValueError, match=r"permute searches orders for .* and, with M up to 4, for"):
        sl.permute(Residual(), torch.randn(2, 8), pattern)
