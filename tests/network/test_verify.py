"""A wrong rule may cost efficacy, never correctness: mutants of the rules and of the plan are caught."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparselab.network import verify as verify_module
from sparselab.network.analysis import analyse
from sparselab.network.free_axes import free_axes
from sparselab.network.permuting import permute
from sparselab.network.plan import Plan
from sparselab.network.report import PermutationReport
from sparselab.network.rounding import rounded
from sparselab.network.rules import RULES
from sparselab.network.verify import Difference, Witness, compare

from .helpers import as_double, outputs_of, random_orders, randomised, relative_error
from .zoo import ZOO, picture


class Chain(nn.Module):
    """Five axes; the mutants below break some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.norm, self.instance = nn.BatchNorm2d(16), nn.InstanceNorm2d(16, affine=True, track_running_stats=True)
        self.d, self.e = nn.Linear(16, 32), nn.Linear(32, 16)
        self.layer, self.last = nn.LayerNorm(32), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c(F.relu(self.instance(self.b(F.relu(self.norm(self.a(x)))))))
        x = self.layer(self.d(x.mean((2, 3))))
        return self.last(F.relu(self.e(F.relu(x))))


def dims_of_input(call):
    return call.dims("input")


MUTANTS = {
    "batch_norm": dims_of_input,
    "layer_norm": dims_of_input,
    "linear": lambda call: (*call.dims("input")[:-1], call.dims("weight")[0]),
    "conv2d": lambda call: (call.dims("input")[0], call.dims("weight")[0], *call.dims("input")[2:]),
}


@pytest.fixture(scope="module")
def right() -> PermutationReport:
    """What the right rules find."""
    return permute(randomised(Chain().eval()), picture(4)(), strategy="channel_swap")


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rule_is_rolled_back(name: str, right: PermutationReport, monkeypatch) -> None:
    model, x = randomised(Chain().eval()), picture(4)()
    before = outputs_of(model, x)
    assert set(right.frame["status"]) == {"permuted", "pinned"}
    monkeypatch.setitem(RULES, name, MUTANTS[name])
    report = permute(model, x, strategy="channel_swap")
    assert relative_error(before, outputs_of(model, x)) < 1e-4
    assert "rolled_back" in set(report.frame["status"])
    if name == "layer_norm":  # only the one axis is to blame: the others stay permuted
        assert (report.frame["status"] == "rolled_back").sum() == 1
        assert (report.frame["status"] == "permuted").sum() == (right.frame["status"] == "permuted").sum() - 1
    rolled = report.frame[report.frame["status"] == "rolled_back"]
    assert (rolled["retained"] == rolled["baseline"]).all()
    with pytest.raises(RuntimeError, match="changed the model's outputs"):
        permute(model, x, strategy="channel_swap", strict=True)
    assert relative_error(before, outputs_of(model, x)) < 1e-4


def test_without_a_copy_the_model_itself_is_the_witness(monkeypatch) -> None:
    model, x = randomised(Chain().eval()), picture(4)()
    before = outputs_of(model, x)
    monkeypatch.setattr(verify_module, "_double_copy", lambda model: None)
    report = permute(copy.deepcopy(model), x, strategy="channel_swap")
    assert report.tolerance == 1e-4
    assert (report.frame["status"] == "permuted").sum() == 5
    monkeypatch.setitem(RULES, "batch_norm", dims_of_input)
    report = permute(model, x, strategy="channel_swap")
    assert "rolled_back" in set(report.frame["status"])
    assert relative_error(before, outputs_of(model, x)) < 1e-4


def mutants_of(plan: Plan):
    """Plans that forget one tensor, or put one consumer in the wrong order."""
    for k, move in enumerate(plan.moves):
        rest = plan.moves[:k] + plan.moves[k + 1 :]
        yield f"forgets {move.names[0]}", Plan(rest)
        wrong = dataclasses.replace(move, order=np.roll(move.order, 1))
        yield f"misplaces {move.names[0]}", Plan((*rest, wrong))


@pytest.mark.parametrize("name", ["sync_and_instance_norm", "group_and_layer_norm", "ResidualSqueezeExcite"])
def test_every_forgotten_or_misplaced_tensor_shows(name: str) -> None:
    """The tests' own power: each single fault in a plan changes the outputs of a randomised network."""
    topology = ZOO[name]
    model, inputs = randomised(topology.build().double().eval()), as_double(topology.inputs())
    before = outputs_of(model, inputs)
    analysis = analyse(model, inputs)
    plan = Plan.from_orders(analysis, random_orders(free_axes(analysis)))
    for what, mutant in mutants_of(plan):
        moved = copy.deepcopy(model)
        mutant.apply(moved)
        assert relative_error(before, outputs_of(moved, inputs)) > 1e-6, what


def test_bisection_finds_all_culprits_and_only_those() -> None:
    axes = [f"axis {k}" for k in range(13)]
    applied: list[object] = []

    class Subject:
        tolerance, dtype = 1e-9, torch.float64

        def difference(self) -> Difference:
            bad = {"axis 3", "axis 4", "axis 12"} & set(applied)
            return Difference(len(bad), float(len(bad)))

        def amplified(self) -> float:
            return self.tolerance

    class Moved:
        def __init__(self, some) -> None:
            self.some = some

        def __enter__(self) -> None:
            applied[:] = self.some

        def __exit__(self, *error: object) -> None:
            applied.clear()

    verdict = verify_module.verify(Subject(), axes, Moved)
    assert sorted(verdict.blamed) == ["axis 12", "axis 3", "axis 4"]
    assert verdict.difference == Difference()


def test_compare_minds_nan_and_infinity() -> None:
    nan, inf = float("nan"), float("inf")
    a = torch.tensor([1.0, nan, inf, -2.0])
    assert compare([a], [a.clone()]) == Difference(0.0, 0.0)
    assert compare([a], [torch.tensor([1.0, nan, inf, -1.0])]) == Difference(1.0, 0.5)
    assert compare([a], [torch.tensor([nan, 1.0, inf, -2.0])]).relative == inf
    assert compare([a], [torch.tensor([1.0, inf, nan, -2.0])]).relative == inf
    assert compare([torch.zeros(2)], [torch.ones(2)]).relative == 1.0
    assert compare([torch.zeros(0)], [torch.zeros(0)]) == Difference()


def test_tolerance_follows_the_lowest_dtype() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b((y.to(torch.bfloat16) * 2).to(y.dtype))

    model, x = randomised(Mixed()), torch.randn(4, 8)
    report = permute(model, x, strategy="channel_swap")
    assert report.tolerance == verify_module.TOLERANCE[torch.bfloat16]
    witness = Witness(nn.Linear(4, 4), torch.randn(2, 4), None, 0)
    assert (witness.is_copy, witness.dtype, witness.tolerance) == (True, torch.float64, 1e-9)


def test_a_model_that_fixes_its_dtype_is_its_own_witness() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(F.relu(self.a(x)) @ torch.eye(8, dtype=torch.float32))

    witness = Witness(Fixed(), torch.randn(2, 8), torch.float32, 0)
    assert (witness.is_copy, witness.dtype) == (False, torch.float32)
    assert witness.difference().relative == 0.0


class Amplifier(nn.Module):
    """Forty blocks in float32, whatever the weights are, each of which makes differences larger."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.inp, self.last = nn.Linear(8, 16), nn.Linear(16, 8)
        self.blocks = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(40))
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        for block in self.blocks:
            x = torch.sin(self.gain * F.linear(x.float(), block.weight.float())).to(x.dtype)
        return self.last(x)


def test_a_network_that_amplifies_rounding_is_not_blamed_for_it(monkeypatch) -> None:
    model, x = randomised(Amplifier(1.8).eval()), torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    before = outputs_of(model.double(), x.double())
    model.float()
    untouched = copy.deepcopy(model.state_dict())
    witness = Witness(model, x, torch.float32, 0)
    assert witness.tolerance == 1e-4 < witness.amplified() < 5e-2
    assert witness.difference().relative == 0.0  # the rounding is taken back bit for bit
    report = permute(model, x, strategy="random,20")
    assert set(report.frame["status"]) <= {"permuted", "kept", "pinned"}
    assert 1e-4 < report.max_rel_error <= report.tolerance < 5e-2
    report.plan.inverse().apply(model)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in model.state_dict().items())
    # A rule that is wrong is still found.
    monkeypatch.setitem(RULES, "linear", MUTANTS["linear"])
    wrong = permute(model, x, strategy="random,20")
    assert "rolled_back" in set(wrong.frame["status"])
    assert relative_error(before, outputs_of(model.double(), x.double())) < 5e-2


@pytest.mark.parametrize("own", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_rounding_and_back(own: torch.dtype, dtype: torch.dtype) -> None:
    model = nn.Linear(16, 16).to(own)
    with torch.no_grad():
        model.weight[0, :3] = torch.tensor([0.0, float("inf"), float("nan")])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    coarser = max(own, dtype, key=lambda each: torch.finfo(each).eps)
    with rounded(model, dtype):
        old, new = before["weight"].double()[1:], model.weight.detach().double()[1:]
        step = (new - old).abs() / old.abs()
        eps = torch.finfo(coarser).eps
        assert bool((step > 0.4 * eps).all())
        assert bool((step <= eps).all())
        assert 0.3 < float((new > old).double().mean()) < 0.7 or coarser is not own
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8))
