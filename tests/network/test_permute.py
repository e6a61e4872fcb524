"""``permute``: what it reports, what it leaves as it was, and what it retains, counted independently."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import signal
import types

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparselab as sl
from sparselab.core.layers import layer_weights
from sparselab.core.progress import late_bar
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks.eligibility import why_not
from sparselab.network import in_turn, searching
from sparselab.network import search_problems as problems_module
from sparselab.network import verify as verify_module
from sparselab.network.permuting import permute
from sparselab.network.plan import Plan
from sparselab.network.report import COLUMNS
from sparselab.permutation.auto import Auto

from . import zoo_attention  # noqa: F401
from .helpers import outputs_of, randomised, relative_error
from .zoo import ZOO, picture

FAST = "channel_swap"


class Net(nn.Module):
    """Every status in one small network: the first layer reads the input, the last flattened one wide units."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, size, 3, padding=1)
        self.norm = nn.BatchNorm2d(size)
        self.second = nn.Conv2d(size, 24, 3, padding=1)
        self.head = nn.Linear(24 * 4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.adaptive_avg_pool2d(F.relu(self.second(x)), 2).flatten(1))


def net() -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    return randomised(Net().eval()), picture(4)()


def kept(weight: torch.Tensor, channel_dim: int = 1) -> float:
    groups = to_matrix(weight.detach().double().abs(), channel_dim).numpy()
    groups = groups.reshape(len(groups), -1, 4)
    return float(np.sort(groups, axis=2)[:, :, 2:].sum())


def test_the_report_says_what_happened() -> None:
    model, x = net()
    before, was = outputs_of(model, x), {n: kept(p) for n, p in model.named_parameters() if p.ndim > 1}
    report = permute(model, x, strategy=FAST)
    assert relative_error(before, outputs_of(model, x)) < 1e-5
    frame = report.frame.set_index("axis")
    assert list(report.frame.columns) == list(COLUMNS)
    assert frame["status"].to_dict() == {
        "first.weight:0": "permuted",
        "second.weight:0": "kept",
        "first.weight:1": "pinned",
    }
    row = frame.loc["first.weight:0"]
    assert row["size"] == 16
    assert row["consumers"] == ("second.weight",)
    assert {"norm.running_var:0", "first.bias:0", "second.weight:1"} <= set(row["members"])
    assert row["baseline"] == pytest.approx(was["second.weight"], rel=1e-5)
    assert row["retained"] == pytest.approx(kept(model.second.weight), rel=1e-5)
    assert row["retained"] > row["baseline"]
    assert row["efficacy"] == pytest.approx(
        100 * (row["retained"] - row["baseline"]) / (row["ideal"] - row["baseline"])
    )
    assert "groups of 4" in frame.loc["second.weight:0", "reason"]
    assert "input" in frame.loc["first.weight:1", "reason"]
    assert report.max_rel_error < 1e-9
    assert report.tolerance == 1e-9
    text = str(report)
    assert "1 permuted, 1 kept, 1 pinned" in text
    assert "first.weight" in text
    assert "<table" in report._repr_html_()
    assert report.weights["status"].to_list() == ["pinned", "permuted", "kept"]
    assert 0 < report.share_permuted < 1


@pytest.mark.parametrize("name", ["Res2Net", "ResidualSqueezeExcite", "DenseNet", "UNet", "flatten_before_classifier"])
def test_retained_in_the_report_is_what_the_model_retains(name: str) -> None:
    """Axes share weights, at several offsets; still the report's sums are those of the network's own weights."""
    topology = ZOO[name]
    model, inputs = randomised(topology.build().eval()), topology.inputs()
    layers = [layer for layer in layer_weights(model) if why_not(layer.module, layer.attribute) is None]
    report = permute(model, inputs, strategy=FAST)
    searched = report.frame.dropna(subset=["baseline"])
    reached = {name for names in searched["consumers"] for name in names}
    total = sum(kept(layer.weight, layer.channel_dim) for layer in layers if layer.name in reached)
    assert (searched["status"] == "permuted").any() or name == "flatten_before_classifier"
    assert searched["retained"].sum() == pytest.approx(total, rel=1e-5)


def test_nothing_else_changes() -> None:
    model, x = net()
    model.train()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    calls: list[int] = []
    model.second.register_forward_hook(lambda *_: calls.append(1))
    parameters = dict(model.named_parameters())
    modes = [module.training for module in model.modules()]
    attributes = {name: dict(module.__dict__) for name, module in model.named_modules()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    report = permute(model, x, strategy=FAST)
    assert torch.equal(torch.rand(3), expected)
    assert (report.frame["status"] == "permuted").any()
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert modes == [module.training for module in model.modules()]
    assert [model.first.weight.requires_grad, model.second.weight.requires_grad] == [False, True]
    assert {name: dict(module.__dict__) for name, module in model.named_modules()} == attributes
    calls.clear()
    model(x)
    assert calls == [1]


def test_a_models_own_train_and_eval_are_not_called() -> None:
    """They may do more than set flags, and that could not be undone."""

    class Refusing(Net):
        def train(self, mode: bool = True):
            raise AssertionError("train() or eval() was called")

    model, x = randomised(Refusing()), picture(4)()
    report = permute(model, x, strategy=FAST)
    assert (report.frame["status"] == "permuted").any()
    assert report.max_rel_error < 1e-9
    assert all(module.training for module in model.modules())


def test_same_seed_same_orders_whatever_wraps_the_model() -> None:
    model, x = net()
    others = [copy.deepcopy(model) for _ in range(3)]
    optimizer = torch.optim.SGD(others[0].parameters(), 0.1, momentum=0.9)
    permute(model, x, strategy=FAST, seed=3)
    permute(others[0], (x,), strategy=FAST, seed=3, optimizer=optimizer)
    permute(nn.DataParallel(others[1]), {"x": x}, strategy=FAST, seed=3)
    permute(torch.compile(others[2]), x, strategy=FAST, seed=3, verify=False)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_plan_moves_an_average_of_the_weights_too() -> None:
    model, x = net()
    average = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.9)
    before = outputs_of(average, x)
    report = permute(model, x, strategy=FAST)
    report.plan.apply(average)
    assert relative_error(before, outputs_of(average, x)) < 1e-5
    assert torch.allclose(average.second.weight, 0.9 * model.second.weight)


def test_what_cannot_be_traced_is_left_alone_and_said(capfd) -> None:
    class Branching(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:  # the culprit
                x = x + 1
            print("in the forward")
            return super().forward(x)

    model = randomised(Branching().eval())
    state = copy.deepcopy(model.state_dict())
    report = permute(model, picture(4)())
    assert capfd.readouterr() == ("", "")
    assert report.untraceable is not None
    assert "test_permute.py" in report.untraceable
    assert "x.sum() > 0" in report.untraceable
    assert "pass a submodule" in report.untraceable
    assert set(report.frame["status"]) == {"pinned"}
    assert len(report.frame) == 3
    assert len(report.plan) == 0
    assert str(report).startswith("Nothing was permuted")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="culprit"):
        permute(model, picture(4)(), strict=True)


def test_a_shape_that_depends_on_values_is_said() -> None:
    class Masked(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + x[x > 0].sum()  # of as many numbers as there are

    model = randomised(Masked().eval())
    report = permute(model, picture(4)())
    assert len(report.plan) == 0
    assert "depends on the values of a tensor at test_permute.py" in str(report.untraceable)


def test_an_operator_that_decomposes_wrongly_is_pinned() -> None:
    bag = nn.Sequential(nn.EmbeddingBag(20, 16), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
    report = permute(randomised(bag), torch.randint(20, (2, 7)), strategy=FAST)
    assert report.weights["status"].tolist() == ["pinned", "permuted"]


def test_what_a_forward_stores_is_as_before() -> None:
    class Storing(Net):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[torch.Tensor] = []
            self.last: dict[str, torch.Tensor] = {}
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.seen.append(x)
            self.last["x"] = super().forward(x)  # cannot be copied: the model is its own witness
            return self.last["x"]

    model, x = randomised(Storing().eval()), picture(4)()
    model(x)
    last = model.last["x"]
    report = permute(model, x, strategy=FAST)
    assert report.share_permuted > 0
    assert model.calls == len(model.seen) == 1
    assert model.last["x"] is last


@pytest.mark.parametrize("verify", [True, "own_dtype"])
def test_buffers_that_a_forward_writes_to_are_as_before(verify: bool | str) -> None:
    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
            self.register_buffer("average", torch.zeros(16))
            self.register_buffer("calls", torch.tensor(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            self.average.mul_(0.9).add_(x.mean(0), alpha=0.1)
            self.calls += 1
            return self.b(x - self.average)

    model, x = randomised(Averaging().eval()), torch.randn(4, 8)
    before = model.average.clone()
    report = permute(model, x, strategy=FAST, verify=verify)
    assert report.frame["status"].tolist() == ["permuted", "pinned"]
    assert torch.equal(model.average.sort().values, before.sort().values)
    assert model.calls == 0


def test_what_is_no_model_and_no_optimizer_is_refused() -> None:
    model, x = net()
    with pytest.raises(ValueError, match=r"takes a torch.nn.Module, got a OrderedDict"):
        permute(model.state_dict(), x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"takes a torch.optim.Optimizer, .*'adam'"):
        permute(model, x, optimizer="adam")  # type: ignore[arg-type]


def test_weights_without_values_are_refused() -> None:
    for model in (nn.Sequential(nn.LazyLinear(8)), nn.Sequential(nn.Linear(8, 8, device="meta"))):
        with pytest.raises(ValueError, match=r"'0\.weight' has no values yet"):
            permute(model, torch.randn(2, 8))


def test_a_successful_run_prints_nothing(capfd) -> None:
    model, x = net()
    permute(model, x, strategy=FAST)
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_search_leaves_the_model_as_it_was(monkeypatch) -> None:
    model, x = net()
    state = copy.deepcopy(model.state_dict())
    for error in (KeyboardInterrupt, RuntimeError):

        def fail(*args, error=error, original=searching.search_permutation, **options):
            original(*args, **options)
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(searching, "search_permutation", fail)
            with pytest.raises(error):
                permute(model, x, strategy=FAST)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_an_interrupted_search_ends_the_whole_although_it_returns(monkeypatch) -> None:
    model, x = net()
    state = copy.deepcopy(model.state_dict())
    calls: list[int] = []

    def interrupted(*args, original=searching.search_permutation, **options):
        calls.append(1)
        with contextlib.suppress(KeyboardInterrupt):  # as a search does, to hand back the best so far
            signal.raise_signal(signal.SIGINT)
        return original(*args, **options)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(searching, "search_permutation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        permute(model, x, strategy=FAST)
    assert calls == [1]
    assert signal.getsignal(signal.SIGINT) is handler
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_include_exclude_and_saliency() -> None:
    model, x = net()
    every = permute(copy.deepcopy(model), x, strategy=FAST)
    assert permute(copy.deepcopy(model), x, exclude=["second"], strategy=FAST).frame["status"].to_list() == [
        "kept",
        "pinned",
    ]
    only = permute(copy.deepcopy(model), x, include=["sec*"], strategy=FAST)
    assert only.weights["weight"].to_list() == ["second.weight"]
    with pytest.raises(ValueError, match="'nothing', which matches no weight"):
        permute(model, x, include=["nothing"])
    with pytest.raises(ValueError, match="saliency"):
        permute(model, x, saliency="no_such")
    squared = permute(copy.deepcopy(model), x, saliency=lambda w: w.square(), strategy=FAST)
    assert squared.frame["baseline"][0] != every.frame["baseline"][0]
    mapping = {name: parameter.detach().abs() for name, parameter in model.named_parameters()}
    mapped = permute(copy.deepcopy(model), x, saliency=mapping, strategy=FAST)
    pd.testing.assert_frame_equal(mapped.frame.drop(columns="seconds"), every.frame.drop(columns="seconds"))


def test_auto_is_the_same_search_by_name_as_an_object_and_in_a_sparsifier() -> None:
    model = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 24), nn.ReLU(), nn.Linear(24, 8)).eval()
    x = torch.randn(4, 8)
    orders = []
    for strategy in ("auto", Auto()):
        found = permute(copy.deepcopy(model), x, strategy=strategy, exclude=["0"])
        orders.append([move.order.tolist() for move in found.plan.moves])
    sparsifier = sl.Sparsifier(copy.deepcopy(model), permutation="auto", example_inputs=x, exclude=["0"])
    sparsifier.compute()
    assert sparsifier.permutation_report is not None
    orders.append([move.order.tolist() for move in sparsifier.permutation_report.plan.moves])
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("pattern", ["unstructured,0.5", "row,0.5"])
def test_patterns_without_groups_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="needs an N:M pattern"):
        permute(*net(), pattern)


@pytest.mark.parametrize("pattern", ["m8n4_2d_best", "m4n2_2d_fast", "m4n2_2d_greedy", "64:2:8"])
def test_patterns_whose_own_masks_cannot_judge_an_order_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=f"got '{pattern}', which the order for '[24]:[48]' helps too"):
        permute(*net(), pattern)


def test_weights_that_are_not_finite_are_named() -> None:
    model, x = net()
    with torch.no_grad():
        model.second.weight[0, 0, 0, 0] = float("nan")
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'second\.weight': NaN or infinite weights: an order would be arbitrary"):
        permute(model, x, strategy=FAST)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if "second" not in key)


def test_an_axis_too_large_to_search_is_kept(monkeypatch) -> None:
    monkeypatch.setattr(searching, "MAX_CHANNELS", 8)
    report = permute(*net(), strategy=FAST)
    assert report.frame["reason"][0] == "16 units are more than the 8 that can be searched"
    assert len(report.plan) == 0


def test_a_masked_model_is_refused() -> None:
    model, x = net()
    model.second.register_buffer("__weight_mma_mask", torch.ones_like(model.second.weight, dtype=torch.bool))
    with pytest.raises(ValueError, match="is masked already"):
        permute(model, x)


def test_a_model_without_eligible_weights() -> None:
    report = permute(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(2, 3))
    assert report.frame.empty
    assert report.share_permuted == 0.0
    assert "no eligible weights" in str(report)


def test_an_auxiliary_head_of_training_mode_is_met() -> None:
    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Conv2d(16, 4, 1)

        def forward(self, x: torch.Tensor):
            x = F.relu(self.norm(self.first(x)))
            out = self.head(F.adaptive_avg_pool2d(F.relu(self.second(x)), 2).flatten(1))
            return (out, self.extra(x)) if self.training else out

    model, x = randomised(Auxiliary().double()), picture(4)().double()
    model.norm.momentum = 0.0
    before = outputs_of(model.train(), x)
    report = permute(model.eval(), x, strategy=FAST)
    assert "extra.weight:1" in report.frame["members"][0]
    assert relative_error(before, outputs_of(model.train(), x)) < 1e-10


class StopsInTraining(Net):
    """An auxiliary head of training mode, behind a branch on numbers that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor):
        x = F.relu(self.norm(self.first(x)))
        out = self.head(F.adaptive_avg_pool2d(F.relu(self.second(x)), 2).flatten(1))
        return (out, self.extra(x)) if self.training and x.max() > 0 else out


def test_a_training_mode_that_cannot_be_traced_counts_as_no_example() -> None:
    model, x = randomised(StopsInTraining().double()).eval(), picture(4)().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = permute(model, x, strategy=FAST)
    assert set(report.unreached) == {"extra.weight", "extra.bias"}
    assert "Training mode" in str(report.refused)
    assert "x.max() > 0" in str(report.refused)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    expected = outputs_of(model, x)
    report = permute(model, x, strategy=FAST, unreached="keep")
    assert report.refused is None
    assert len(report.plan) > 0
    assert relative_error(expected, outputs_of(model, x)) < 1e-10


def test_other_batch_sizes_and_dtypes() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model, x = net()
        model, wide = model.to(dtype), copy.deepcopy(model).double()
        report = permute(model, x.to(dtype), strategy=FAST)
        assert (report.frame["status"] == "permuted").sum() == 1
        assert next(model.parameters()).dtype == dtype
        before = outputs_of(wide, picture(4, size=10, batch=5)().double())
        report.plan.apply(wide)
        assert relative_error(before, outputs_of(wide, picture(4, size=10, batch=5)().double())) < 1e-10


def test_applying_the_plan_is_what_permute_did() -> None:
    model, x = net()
    twin = copy.deepcopy(model)
    report = permute(model, x, strategy=FAST)
    Plan.from_json(report.plan.to_json()).apply(twin)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_heads_that_only_move_along_are_not_counted_twice() -> None:
    """The widths of heads are searched, the heads as wholes are not: the same columns count once."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    before = sl.magnitude_report(model, "2:4").set_index("layer")["retained"]
    report = permute(model, torch.randn(2, 5, 16), strategy=FAST)
    after = sl.magnitude_report(model, "2:4").set_index("layer")["retained"]
    frame = report.frame.set_index("axis")
    heads = frame[frame["size"] == 4]
    assert {(16 // 4, True), (4, False)} >= set(zip(heads["size"], heads["baseline"].isna(), strict=True))
    assert heads["baseline"].isna().any()
    searched = frame.dropna(subset=["baseline"])
    known = {name for names in searched["consumers"] for name in names}
    assert searched["baseline"].sum() == pytest.approx(before[list(known)].sum(), rel=1e-6)
    assert report.retained_gain == pytest.approx(after[list(known)].sum() / before[list(known)].sum() - 1, abs=1e-9)


@pytest.mark.parametrize("name", ["ResidualSqueezeExcite", "GroupedQueries", "HandWrittenAttention"])
def test_a_sample_of_the_rows_is_searched_and_all_are_counted(name: str, monkeypatch) -> None:
    model, x = randomised(ZOO[name].build().eval()), ZOO[name].inputs()
    whole = permute(copy.deepcopy(model), x, strategy=FAST)
    monkeypatch.setattr(problems_module.placed_problems, "__kwdefaults__", {"seed": 0, "max_scores": 300})
    monkeypatch.setattr(problems_module, "_BLOCK", 50)
    before = outputs_of(model, x)
    report = permute(model, x, strategy=FAST)
    assert relative_error(before, outputs_of(model, x)) < 1e-4
    for column in ("baseline", "ideal"):
        assert report.frame[column].to_numpy() == pytest.approx(whole.frame[column].to_numpy(), rel=1e-5, nan_ok=True)
    assert (report.frame["retained"].dropna() >= report.frame["baseline"].dropna() * (1 - 1e-12)).all()
    assert report.retained_gain > 0


def test_the_proof_in_the_models_own_dtype_copies_nothing(monkeypatch) -> None:
    model, x = net()
    model, x = model.bfloat16(), x.bfloat16()

    def refuse(*_):
        raise AssertionError("copied")

    monkeypatch.setattr(verify_module, "_double_copy", refuse)
    report = permute(model, x, strategy=FAST, verify="own_dtype")
    assert (report.frame["status"] == "permuted").any()
    assert 0 <= report.max_rel_error <= report.tolerance == verify_module.TOLERANCE[torch.bfloat16]
    with pytest.raises(ValueError, match="verify is True, False or 'own_dtype', got 'own'"):
        permute(model, x, verify="own")


def test_orders_do_not_depend_on_how_many_axes_are_searched_side_by_side() -> None:
    model, x = net()
    threads, plans = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            plans.append(permute(copy.deepcopy(model), x).plan.to_json())
    finally:
        torch.set_num_threads(threads)
    assert plans[0] == plans[1]


def test_groups_that_straddle_are_searched_where_they_do_not() -> None:
    """GroupNorm over 4 groups of 10: of each, the 8 channels in whole groups of 4 are searched, the others stay."""
    model = randomised(
        nn.Sequential(nn.Conv2d(4, 40, 1), nn.GroupNorm(4, 40), nn.ReLU(), nn.Conv2d(40, 4, 3, bias=False))
    )
    x = picture(4)()
    before = outputs_of(model, x)
    matrix = model[3].weight.detach().abs().flatten(2).permute(0, 2, 1).reshape(-1, 40).numpy()
    report = permute(model, x, strategy="random,50", verify=False)
    assert relative_error(before, outputs_of(model, x)) < 1e-5
    after = model[3].weight.detach().abs().flatten(2).permute(0, 2, 1).reshape(-1, 40).numpy()

    def retained(scores):
        return float(np.sort(scores.reshape(-1, 10, 4), -1)[..., 2:].sum())

    came_from = np.array([int(np.flatnonzero((matrix == column[:, None]).all(0))[0]) for column in after.T])
    assert (came_from // 10 == np.arange(40) // 10).all()
    straddle = [column for column in range(40) if column // 4 * 4 // 10 != (column // 4 * 4 + 3) // 10]
    assert (came_from[straddle] == straddle).all()
    assert report.weights.set_index("weight").loc["3.weight", "status"] == "permuted"
    row = (
        report.frame[report.frame["consumers"].map(lambda names: "3.weight" in names)]
        .dropna(subset=["baseline"])
        .iloc[0]
    )
    assert row["retained"] - row["baseline"] == pytest.approx(retained(after) - retained(matrix), rel=1e-4)
    assert row["retained"] > row["baseline"]


def test_constants_that_move_are_in_the_state_dict_until_they_are_moved_back() -> None:
    """Else a state dict in the new order would be loaded beside positions in the old one, and nobody would know."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.last = nn.Linear(5, 16), nn.Linear(16, 3)
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("pos", torch.randn(7, 16, generator=generator), persistent=False)
            self.table = torch.randn(7, 16, generator=generator)
            self.other_name = self.inp.weight.data

        def forward(self, x):
            return self.last((self.inp(x) + self.pos + self.table).relu())

    model, x = randomised(Positions()), torch.randn(2, 7, 5)
    keys, own, expected = set(model.state_dict()), dict(vars(model)), outputs_of(model, x)
    report = permute(model, x, strategy="random,50")
    assert {"pos", "table"} <= {move.names[0] for move in report.plan.moves}
    assert set(model.state_dict()) == keys | {"pos", "table"}
    with pytest.raises(RuntimeError, match="pos"):
        Positions().load_state_dict(model.state_dict())
    again = Positions()
    report.plan.apply(again)
    again.load_state_dict(model.state_dict())
    assert relative_error(expected, outputs_of(again, x)) < 1e-6
    reloaded = pickle.loads(pickle.dumps(report.plan.inverse()))
    reloaded.apply(model)
    assert set(model.state_dict()) == keys
    assert set(vars(model)) == set(own)
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs_of(model, x), strict=True))


def test_an_input_that_was_not_given_is_asked_for() -> None:
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.last = nn.Linear(5, 16), nn.Linear(16, 3)

        def forward(self, x, attention_mask=None):
            return self.last(self.inp(x).relu() * attention_mask[..., None])

    model, x = randomised(Masked()), torch.randn(2, 7, 5)
    report = permute(model, {"x": x}, strategy="random,5", verify=False)
    assert "test_permute.py" in report.untraceable
    assert "give it too, an attention_mask of ones" in report.untraceable
    report = permute(model, {"x": x, "attention_mask": torch.ones(2, 7)}, strategy="random,5", verify=False)
    assert report.untraceable is None


@pytest.mark.parametrize("pattern", ["2:4", "m4n2_2d_best"])
def test_a_bar_counts_what_is_searched(pattern, monkeypatch):
    bars, shown = [], []

    def noted(*args, progress, **kwargs):
        shown.append(progress)
        bars.append(late_bar(*args, progress=progress, **kwargs))
        return bars[-1]

    monkeypatch.setattr(searching, "late_bar", noted)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    report = permute(copy.deepcopy(model), torch.randn(3, 8), pattern)
    axes_of_columns = 2
    assert bars[0].n == bars[0].total == axes_of_columns <= len(report.frame)
    assert all(bar.n for bar in bars)
    assert all(shown)
    permute(model, torch.randn(3, 8), pattern, progress=False)
    assert shown[len(bars) // 2 :] == [False] * (len(bars) // 2)


def test_the_search_in_turn_counts_its_time(monkeypatch):
    hours = itertools.count(0.0, 3600.0)  # a clock by which every search takes an hour
    monkeypatch.setattr(in_turn, "time", types.SimpleNamespace(perf_counter=lambda: next(hours)))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    report = permute(model, torch.randn(3, 8), "m4n2_2d_best", verify=False)
    assert (report.frame.loc[report.frame["status"] != "pinned", "seconds"] >= 3600).all()


def test_outputs_that_prove_nothing_are_refused() -> None:
    model, x = net()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="NaN or infinite throughout on the example inputs"):
        permute(model, torch.full_like(x, float("nan")), strategy=FAST)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_weight_that_is_not_finite_is_named_where_it_could_not_move(caplog) -> None:
    model, x = net()
    with torch.no_grad():
        next(model.parameters())[0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite weights: an order would be arbitrary there"):
        permute(model, x, strategy=FAST)


def test_what_cannot_be_traced_is_in_the_log(caplog) -> None:
    model, x = net()
    report = permute(model, x[:, :1], strategy=FAST)
    assert report.untraceable is not None
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("sparselab")]
    assert said.startswith("channels are not permuted, since the model could not be traced on the example_inputs: ")
