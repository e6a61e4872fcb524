"""Figures 3 and 4: walks between orders, and sparsity that fits for nothing."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparselab as sl
from sparselab.network.control import random_plan
from sparselab.reproduce import drawing, figure3, figure4
from sparselab.reproduce.partway import order_partway, plan_partway, swaps_towards
from sparselab.reproduce.sources import MEASURED

orders = st.integers(1, 24).flatmap(lambda size: st.permutations(range(size))).map(np.array)


@settings(max_examples=50, deadline=None)
@given(orders, st.floats(0, 1))
def test_a_walk_begins_at_the_identity_and_ends_at_the_order(order, share):
    assert order_partway(order, 0.0).tolist() == list(range(len(order)))
    assert order_partway(order, 1.0).tolist() == order.tolist()
    between = order_partway(order, share)
    assert sorted(between) == list(range(len(order)))
    assert len(swaps_towards(order)) < len(order)
    here = (between == order).sum()
    assert here >= (np.arange(len(order)) == order).sum(), "no swap takes a channel from its place"


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match="between 0 and 1"):
        order_partway(np.arange(4), 1.5)


def test_a_plan_partway_keeps_the_function():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    ).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    x = torch.randn(5, 8)
    plan = random_plan(model, x, 3)
    before = model(x)
    weight = model[3].weight.detach().clone()
    plan_partway(plan, 0.5).apply(model)
    assert not torch.equal(model[3].weight, weight)
    assert torch.allclose(model(x), before, atol=1e-5)


def test_what_is_no_symmetry_is_refused():
    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.two(self.one(x))

    model = Flipped()
    plan = random_plan(model, torch.zeros(2, 8), 1)
    broken = type(plan)(tuple(move for move in plan.moves if move.names != ("two.weight",)))
    task = sl.tasks.get_task("digits")
    data = torch.utils.data.TensorDataset(torch.randn(8, 8), torch.zeros(8))
    task = type(task)("broken", Flipped, data, data)
    with pytest.raises(RuntimeError, match="not a symmetry"):
        figure3.apply_unchanged(broken, model, task)


def walk_frame(noise=0.0):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            (name, "2:4", seed, step, 10.0 * step, level + step + noise * rng.normal(), level + 2 * step)
            for (name, level), seed, step in itertools.product((("a", 50), ("b", 80)), range(2), range(4))
        ],
        columns=["name", "pattern", "seed", "step", "efficacy", "pruned_top1", "finetuned_top1"],
    )


def test_correlations_are_within_walks():
    found = figure3.correlations(walk_frame()).set_index("phase")
    assert found["rho"].tolist() == pytest.approx([1, 1])
    assert (found["p"] < 0.01).all()
    assert found["walks"].tolist() == [4, 4]
    assert found["gained"].tolist() == [3, 6]
    assert set(found["source"]) == {MEASURED}


def test_the_figure_of_gains_begins_at_zero():
    figure = drawing.efficacy_against_accuracy(walk_frame(noise=1.0))
    for axes in figure.axes:
        lines = [line for line in axes.get_lines() if line.get_label() in ("a, 2:4", "b, 2:4")]
        assert len(lines) == 2
        assert all(line.get_ydata()[0] == 0 for line in lines)


def test_the_way_begins_at_none_and_ends_at_the_efficacy_of_the_plan():
    task = sl.tasks.get_task("digits")
    torch.manual_seed(0)
    model = task.model().eval()
    report = sl.permute(copy.deepcopy(model), task.example_inputs, verify=False)
    along = figure3.efficacies_along(model, task, report.plan, "2:4")
    assert along[0] == 0
    searched = report.frame[["baseline", "retained", "ideal"]].sum()
    assert along[-1] == pytest.approx(
        sl.measures.efficacy(searched.retained, searched.baseline, searched.ideal), rel=1e-4
    )


def test_equal_steps_are_those_nearest_to_equal_efficacies():
    efficacies = np.linspace(0, 30, len(figure3.SHARES))
    efficacies[[5, 35]] = efficacies[[35, 5]]
    assert figure3.equal_steps(efficacies, 3) == [
        (0, 0),
        (pytest.approx(figure3.SHARES[13]), efficacies[13]),
        (pytest.approx(figure3.SHARES[27]), efficacies[27]),
        (1, 30),
    ]


# ------------------------------------------------------------------------------------------------------------ figure 4


def test_without_smallest_is_a_sort():
    matrix = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    for percent in (0, 25, 50, 99, 100):
        kept = np.sort(matrix.ravel())[round(48 * percent / 100) :]
        assert np.array_equal(
            np.sort(figure4.without_smallest(matrix, percent)[figure4.without_smallest(matrix, percent) > 0]), kept
        )


def test_least_sparsity_is_the_least_by_brute_force():
    matrix = np.random.default_rng(1).random((3, 8)).astype(np.float32)

    def fits(percent):
        scores = figure4.without_smallest(matrix, percent)
        return any(figure4.is_lossless(scores[:, list(order)]) for order in partitions())

    def partitions():  # every way to cut eight channels into two groups
        for group in itertools.combinations(range(1, 8), 3):
            yield (0, *group, *(c for c in range(1, 8) if c not in group))

    expected = next(percent for percent in range(101) if fits(percent))
    found, seconds = figure4.least_sparsity(matrix, "exhaustive")
    assert found == expected
    assert seconds > 0
    assert figure4.no_order_below(matrix) <= expected <= figure4.least_sparsity(matrix, "identity")[0]


def test_no_order_below_is_about_the_fullest_row():
    matrix = np.ones((2, 8), np.float32)
    matrix[0] += 1  # the first row's entries are the largest
    assert (
        figure4.no_order_below(matrix) == 72
    )  # 11.52 of the 16 entries, rounded: the 8 of the other row and 4 of its own
    assert figure4.is_lossless(np.array([[1, 1, 0, 0]]))
    assert not figure4.is_lossless(np.array([[1, 1, 1, 0]]))


def test_the_curves_end_with_every_layer():
    frame = pd.DataFrame(
        {
            "layer": ["a", "b"] * 2,
            "strategy": ["identity"] * 2 + ["auto"] * 2,
            "least_sparsity": [90, 97, 70, 85],
            "no_order_below": [60, 80, 60, 80],
        }
    )
    figure = drawing.layers_succeeding(frame)
    curves = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert {label: (max(curve), min(curve)) for label, curve in curves.items()} == {
        "identity": (2, 0),
        "auto": (2, 0),
        "no order below": (2, 0),
    }
