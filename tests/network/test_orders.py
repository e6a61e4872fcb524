"""Gathered and own orders: outputs stay, hooks go wherever a model goes, and what is retained is what an oracle counts."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.channel_order import ChannelOrder
from sparselab.core.moves import Move
from sparselab.network.gathers import Gather
from sparselab.network.plan import Plan

from .helpers import randomised

QUICK = {"strategy": "channel_swap", "backend": "reference"}  # nothing to compile: networks are small


class Stream(nn.Module):
    """A pinned input, and a residual stream that three weights read and want in three orders."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 12), nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(input=x + self.down(torch.relu(self.up(x))))


class Pictures(nn.Module):
    """Convolutions of every kind that may be gathered, and a grouped one, which may not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=2)
        self.back = nn.ConvTranspose2d(8, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.back(torch.relu(self.grouped(torch.relu(self.first(x)))).flip(1))


def skewed(model: nn.Module) -> nn.Module:
    """Weights whose columns differ much in size: orders matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in randomised(model).parameters():
            if weight.ndim > 1:
                weight.mul_(torch.randn(weight.shape, generator=generator, dtype=torch.float64).exp())
    return model.eval()


def retained(weight: torch.Tensor, order: np.ndarray | None = None, channel_dim: int = 1) -> float:
    """What 2 of every 4 channels keep, in plain numpy."""
    matrix = np.moveaxis(weight.detach().double().abs().numpy(), channel_dim, -1)
    matrix = matrix if order is None else matrix[..., order]
    return float(np.sort(matrix.reshape(-1, 4), 1)[:, 2:].sum())


@pytest.fixture(scope="module")
def gathered() -> tuple[nn.Module, nn.Module, torch.Tensor, sl.PermutationReport]:
    """A model as it was and with every gather that gains anything, the input, and the report."""
    model, x = skewed(Stream()), torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    moved = copy.deepcopy(model)
    return model, moved, x, sl.permute(moved, x, orders="gathered,0", **QUICK)


def same(model: nn.Module, other: nn.Module, x: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(model(x), other(x), atol=1e-4 * float(model(x).abs().max()))


def test_outputs_stay_and_the_report_counts_what_an_oracle_does(gathered) -> None:
    model, moved, x, report = gathered
    assert same(model, moved, x)
    assert report.max_rel_error < 1e-9  # in float64, on a copy
    rows = report.gathers.set_index("weight")
    assert list(rows.index) == ["stem.weight", "up.weight", "down.weight", "head.weight"]
    assert rows["taken"].tolist() == [True, True, False, True]
    assert "follow" in rows.loc["down.weight", "reason"]
    free = copy.deepcopy(model)
    sl.permute(free, x, **QUICK)
    for name in report.taken["weight"]:
        assert rows.loc[name, "free"] == pytest.approx(retained(free.get_parameter(name)), rel=1e-6)
        assert rows.loc[name, "gathered"] == pytest.approx(retained(moved.get_parameter(name)), rel=1e-6)
        assert rows.loc[name, "total"] == pytest.approx(float(model.get_parameter(name).detach().abs().sum()), rel=1e-6)
    before, after = (sum(retained(each) for each in net.parameters() if each.ndim > 1) for net in (model, moved))
    assert report.retained_gain == pytest.approx(after / before - 1, rel=1e-6)
    assert (rows.loc["stem.weight", "bytes"], rows.loc["stem.weight", "index_bytes"]) == (2 * 5 * 16 * 4, 16 * 8)
    assert (report.taken[["microseconds", "layer_microseconds"]] > 0).all(axis=None)
    assert set(report.weights["status"]) == {"gathered", "permuted"}
    assert "3 of 4 layers re-index their inputs" in str(report)


def test_a_gather_is_taken_where_it_is_worth_so_much(gathered) -> None:
    model, _, x, every = gathered
    least = every.taken["gain_percent"].median()
    report = sl.permute(copy.deepcopy(model), x, orders=f"gathered,{least}", **QUICK)
    assert list(report.taken["weight"]) == list(every.taken.query("gain_percent >= @least")["weight"])
    assert report.gathers["reason"].str.contains("less than").any()
    with pytest.raises(ValueError, match="worth=-1 must be a percentage"):
        sl.permute(model, x, orders="gathered,-1")
    moments = {"up.weight": sl.statistics.SecondMoments(torch.eye(16)[None], (5,), (12, 16))}
    with pytest.raises(ValueError, match="worth is counted in saliency"):
        sl.permute(model, x, orders="gathered", include=["up.weight"], objective="error", moments=moments)
    with pytest.raises(ValueError, match=r"unknown kind of orders 'gatherd'.*Did you mean 'gathered'"):
        sl.permute(model, x, orders="gatherd")


def test_the_hook_goes_wherever_the_model_goes(gathered, tmp_path) -> None:
    model, moved, x, report = gathered
    copied = copy.deepcopy(moved)
    copied.stem._buffers["__weight_mma_gather"].zero_()  # a copy's own
    assert same(model, moved, x)
    assert not same(model, copied, x)
    assert same(model, pickle.loads(pickle.dumps(moved)), x)
    assert same(model.double(), copy.deepcopy(moved).double(), x.double())
    model.float()
    file = io.BytesIO()
    torch.save(moved, file)
    file.seek(0)
    assert same(model, torch.load(file, weights_only=False), x)
    fresh = Stream().eval()
    with pytest.raises(RuntimeError, match="__weight_mma_gather"):  # not silently another function
        fresh.load_state_dict(moved.state_dict())
    report.plan.save(tmp_path / "plan.json")
    Plan.load(tmp_path / "plan.json").apply(fresh)
    fresh.load_state_dict(moved.state_dict())
    assert same(model, fresh, x)


def test_compiled_exported_and_scripted_by_tracing(gathered) -> None:
    model, moved, x, report = gathered
    assert same(model, torch.compile(copy.deepcopy(moved), backend="eager", fullgraph=True), x)
    assert same(model, torch.export.export(moved, (x,)).module(), x)
    assert same(model, torch.jit.trace(moved, x, check_trace=False), x)
    with pytest.raises(RuntimeError, match="apply the inverse of the plan first"):  # hooks are kept, buffers are not
        torch.ao.quantization.quantize_dynamic(moved, {nn.Linear})(x)
    late = copy.deepcopy(model)
    compiled = torch.compile(late, backend="eager")
    assert same(model, compiled, x)
    report.plan.apply(late)  # what was compiled before knows of no hook
    assert same(model, compiled, x)
    report.plan.inverse().apply(late)
    assert same(model, compiled, x)


def test_onnx_has_a_gather_for_each(gathered) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model, moved, x, report = gathered
    file = io.BytesIO()
    torch.onnx.export(moved, (x,), file, dynamo=False)
    kinds = [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    assert kinds.count("Gather") == len(report.plan.gathers) == 3
    session = runtime.InferenceSession(file.getvalue())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-4)


def test_undone_bit_for_bit_and_gathered_twice(gathered) -> None:
    model, moved, x, report = gathered
    again = copy.deepcopy(moved)
    second = sl.permute(again, x, "1:4", orders="gathered,0", **QUICK)  # traces through the gathers that are there
    assert second.share_permuted == 1
    assert same(model, again, x)
    second.plan.inverse().apply(again)
    report.plan.inverse().apply(again)
    assert not any(module._forward_pre_hooks for module in again.modules())
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_convolutions_and_what_cannot_be_gathered() -> None:
    model, x = skewed(Pictures()), torch.randn(2, 8, 6, 6)
    moved = copy.deepcopy(model)
    report = sl.permute(moved, x, orders="gathered,0", **QUICK)
    assert same(model, moved, x)
    assert same(model, moved, x[0])  # one picture without a batch
    rows = report.gathers.set_index("weight")
    assert rows["taken"].to_dict() == {"first.weight": True, "grouped.weight": False, "back.weight": True}
    assert "grouped convolution" in rows.loc["grouped.weight", "reason"]


class Elsewhere(nn.Module):
    """Weights that a hook does not reach: read by a function too, shared, and in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.own = nn.Linear(8, 8), nn.Linear(8, 8)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.own.weight.dtype)  # asks for a dtype, and does not read
        y = self.read(x) + nn.functional.linear(x, self.read.weight) + self.own(x)
        return self.attention(x, y, self.one(x) + self.other(y))[0]


def test_weights_that_a_hook_does_not_reach_keep_their_input() -> None:
    model, x = skewed(Elsewhere()), torch.randn(2, 3, 8)
    moved = copy.deepcopy(model)
    report = sl.permute(moved, x, orders="gathered,0", verify=False, **QUICK)  # nothing but the rules
    assert same(model, moved, x)
    reasons = dict(zip(report.gathers["weight"], report.gathers["reason"]))
    assert report.taken["weight"].tolist() == ["own.weight"]
    assert "read outside of its layer" in reasons["read.weight"]
    assert "other.weight" in reasons["one.weight"]
    assert "MultiheadAttention" in reasons["attention.in_proj_weight"]
    assert "hook" in reasons["attention.out_proj.weight"]


def test_an_untraceable_model_can_be_gathered() -> None:
    class Branching(Stream):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if float(x.sum()) > 1e9 else x + 0)

    model, x = skewed(Branching()), torch.randn(5, 16)
    moved = copy.deepcopy(model)
    report = sl.permute(moved, x, orders="gathered,0", **QUICK)
    assert report.untraceable
    assert report.share_permuted == 1
    assert report.max_rel_error <= report.tolerance < 1e-3  # by a verification of its own, which says what it allows
    assert same(model, moved, x)


def test_a_gather_that_changes_outputs_is_left_out() -> None:
    """A layer that does with its input something else than to multiply it, where no rule sees it."""
    model, x = skewed(Stream()), torch.randn(5, 16)

    class Picky(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + (input * torch.arange(16.0)).sum(-1, keepdim=True).to(input)

    picky = Picky(16, 16)
    picky.load_state_dict(model.stem.state_dict())
    model.stem = picky.eval()
    moved = copy.deepcopy(model)
    report = sl.permute(moved, x, orders="gathered,0", **QUICK)
    assert same(model, moved, x)
    assert "changed the model's outputs" in dict(zip(report.gathers["weight"], report.gathers["reason"]))["stem.weight"]


def test_plans_with_gathers_say_what_does_not_fit() -> None:
    model, order = Stream(), np.arange(16)[::-1].copy()
    for name, count, what in [("no.weight", 16, "does not have"), ("up.weight", 8, "here it has 16")]:
        with pytest.raises(ValueError, match=what):
            Plan((), (Gather(name, order[-count:] if count < 16 else order),)).apply(model)
    data = Plan((), (Gather("up.weight", order),)).to_json()
    assert data["version"] == 2
    assert Plan().to_json()["version"] == 1  # which earlier releases read
    assert Plan.from_json(data).gathers[0].order.tolist() == order.tolist()


# ------------------------------------------------------------------------------------------------------- own orders


def test_own_orders_move_nothing_and_retain_what_an_oracle_counts() -> None:
    model = skewed(Stream())
    before = copy.deepcopy(model.state_dict())
    report = sl.permute(model, None, orders="own", **QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not report.plan.moves
    assert "No kernel can run this" in str(report)
    for _, row in report.frame.iterrows():
        name = row["consumers"][0]
        weight, order = model.get_parameter(name), report.own[name].order
        assert row["baseline"] == pytest.approx(retained(weight), rel=1e-6)
        assert row["retained"] == pytest.approx(retained(weight, order), rel=1e-6)
    assert set(report.weights["status"]) == {"own"}


def test_an_own_order_follows_a_plan() -> None:
    rng = np.random.default_rng(0)
    weight, order = rng.normal(size=(3, 8)), ChannelOrder(rng.permutation(8), 1)
    column, row = rng.permutation(8), rng.permutation(3)
    for move in (Move(("w",), (3, 8), 1, 1, column), Move(("w",), (3, 8), 0, 0, row)):
        moved = move(torch.from_numpy(weight)).numpy()
        expected = weight[row][:, order.order] if move.first == 0 else weight[:, order.order]
        np.testing.assert_array_equal(moved[:, order.moved(move).order], expected)
    both = np.arange(24).reshape(3, 8)[row][:, column].ravel()  # rows and columns in one span
    moved = weight.ravel()[both].reshape(3, 8)
    found = order.moved(Move(("w",), (3, 8), 0, 1, both))
    np.testing.assert_array_equal(moved[:, found.order], weight[row][:, order.order])
    with pytest.raises(ValueError, match="another order of channels in every row"):
        order.moved(Move(("w",), (3, 8), 0, 1, rng.permutation(24)))
