"""Orders of a network judged by errors, against trying every grouping of eight channels."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.statistics import SecondMoments, collect
from sparselab.testing.strategies import partitions_of


def least_error(weight, h, order):
    """What 2:4 masks lose of ``tr(W H W^T)`` at least, group by group, as a share."""
    weight, h = weight.detach().double().numpy(), h.double().numpy()
    lost = sum(
        min(row[list(p)] @ h[np.ix_(p, p)] @ row[list(p)] for p in combinations(group, 2))
        for row in weight
        for group in np.asarray(order).reshape(-1, 4).tolist()
    )
    return lost / np.trace(weight @ h @ weight.T)


class Shared(nn.Module):
    """Eight hidden channels that two layers read."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.one, self.two = nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        return self.one(hidden), 100 * self.two(hidden)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Shared()


def moments_of(model, batch, names=("one", "two")):
    return collect(model, [batch], [SecondMoments], layers=names, dtype=torch.float64)[SecondMoments]


def test_errors_of_all_readers_add_up_as_shares_of_what_each_gives(model):
    batch = torch.randn(50, 6) @ torch.randn(6, 6)
    before = moments_of(model, batch)
    layers = {"one.weight": model.one.weight, "two.weight": model.two.weight}

    def lost(order):
        return sum(least_error(weight, before[name].sums[0], order) for name, weight in layers.items())

    best, asis = min(map(lost, partitions_of(range(8), 4))), lost(range(8))
    report = sl.permute(model, batch, objective="error", moments=before, exclude=["first"])
    after = moments_of(model, batch)
    now = sum(least_error(weight, after[name].sums[0], range(8)) for name, weight in layers.items())
    assert best < asis
    assert now == pytest.approx(best, rel=1e-5)
    row = report.frame.iloc[0]
    assert row["ideal"] - row["retained"] == pytest.approx(best, rel=1e-5)
    assert row["efficacy"] == pytest.approx(100 * (1 - best / asis), abs=0.01)


def test_a_sample_of_rows_is_counted_on_all(model, monkeypatch):
    """Scores beyond a limit are sampled; what is reported is counted on all rows."""
    import sparselab.network.search_problems as problems_module

    batch = torch.randn(50, 6)
    before = moments_of(model, batch)
    monkeypatch.setattr(problems_module.placed_problems, "__kwdefaults__", {"seed": 0, "max_scores": 40})
    row = sl.permute(model, batch, objective="error", moments=before, exclude=["first"]).frame.iloc[0]
    after = moments_of(model, batch)
    now = sum(
        least_error(getattr(model, name).weight, after[f"{name}.weight"].sums[0], range(8)) for name in ("one", "two")
    )
    assert row["ideal"] - row["retained"] == pytest.approx(now, rel=1e-5)
    assert row["retained"] >= row["baseline"]


def test_heads_and_kernel_positions_have_orders_by_errors():
    """A convolution, and the outputs of attention heads, whose units stand in several places."""
    torch.manual_seed(1)
    convolutions = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 6, 3))
    pictures = torch.randn(4, 3, 8, 8)
    moments = collect(convolutions, [pictures], [SecondMoments])[SecondMoments]
    for objective in ("error", "updated_error"):
        report = sl.permute(convolutions, pictures, objective=objective, moments=moments, include=["2.weight"])
        moments = collect(convolutions, [pictures], [SecondMoments])[SecondMoments]
        row = report.frame.iloc[0]
        assert row["status"] == "permuted"
        assert row["baseline"] < row["retained"] < row["ideal"]
        assert report.max_rel_error < report.tolerance


def test_weights_without_moments_are_named(model):
    batch = torch.randn(50, 6)
    with pytest.raises(ValueError, match=r"no second moments of 'two\.weight'"):
        sl.permute(model, batch, objective="error", moments=moments_of(model, batch, ("one",)), exclude=["first"])
    with pytest.raises(ValueError, match="needs second moments"):
        sl.permute(model, batch, objective="error")
    with pytest.raises(ValueError, match="along the channels"):
        sl.permute(model, batch, "m4n2_2d_best", objective="error", moments=moments_of(model, batch))


def test_prune_orders_by_errors_on_its_calibration_data():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    batches = [torch.randn(64, 8) for _ in range(2)]
    report = sl.prune(model, batches, pruner="sparsegpt", permutation="auto", objective="updated_error", progress=False)
    assert report.protocol["objective"] == "UpdatedError(damping=0.01)"
    assert report.permutation is not None
    assert (report.permutation.frame["status"] == "permuted").any()
    with pytest.raises(ValueError, match="give permutation"):
        sl.prune(model, batches, objective="error", progress=False)
