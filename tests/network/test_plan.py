"""Plans: to JSON and back, on another copy, inverted, refused, with gradients and optimizer state, all or nothing."""

from __future__ import annotations

import copy
import functools
import json
import signal

import pytest
import torch
from torch import nn

from sparselab.network import plan as plan_module
from sparselab.network.analysis import analyse
from sparselab.network.free_axes import free_axes
from sparselab.network.plan import Plan

from . import zoo_attention  # noqa: F401
from .helpers import outputs_of, random_orders, randomised, relative_error
from .zoo import ZOO


def planned(name: str) -> tuple[nn.Module, object, Plan]:
    """A model of the zoo, its inputs, and a plan of random orders."""
    topology = ZOO[name]
    return randomised(topology.build().eval()), topology.inputs(), plan_of(name)


@functools.cache
def plan_of(name: str) -> Plan:
    """A plan fits every model of its architecture, so one trace of each will do."""
    topology = ZOO[name]
    analysis = analyse(randomised(topology.build().eval()), topology.inputs())
    return Plan.from_orders(analysis, random_orders(free_axes(analysis)))


NAMES = ["ResidualSqueezeExcite", "SiblingGroups", "GroupedQueries", "Tied", "ConstantIndex"]


@pytest.mark.parametrize("name", NAMES)
def test_saved_loaded_and_inverted(name: str, tmp_path) -> None:
    model, _, plan = planned(name)
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    before = copy.deepcopy(model.state_dict())
    one, two = copy.deepcopy(model), copy.deepcopy(model)
    plan.apply(one)
    loaded.apply(two)
    assert any(not torch.equal(before[key], value) for key, value in one.state_dict().items())
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    loaded.inverse().apply(one)
    assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())


def test_training_goes_on_as_if_nothing_had_moved() -> None:
    """Momentum, Adam's moments and gradients move along: after more steps the outputs still agree."""
    for make in (lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True)):
        model, inputs, plan = planned("ResidualSqueezeExcite")
        model.double()
        inputs = inputs.double()
        moved = copy.deepcopy(model)
        optimizers = [make(model.parameters()), make(moved.parameters())]

        def steps(count: int, model=model, moved=moved, optimizers=optimizers, inputs=inputs) -> None:
            for _ in range(count):
                for net, optimizer in zip((model, moved), optimizers, strict=True):
                    optimizer.zero_grad()
                    net(inputs).square().mean().backward()
                    optimizer.step()

        steps(3)
        plan.apply(moved, optimizers[1])
        for a, b in zip(model.parameters(), moved.parameters(), strict=True):
            assert a.grad is not None
            assert torch.allclose(a.grad.norm(), b.grad.norm())
        for _, optimizer in enumerate(optimizers):
            optimizer.step()  # with the gradients that were there
        steps(3)
        assert relative_error(outputs_of(model, inputs), outputs_of(moved, inputs)) < 1e-9


def test_factored_state_and_a_state_for_each_of_two_parameters_in_one_place() -> None:
    """Adafactor keeps sums of rows and columns; parameters in one place have a state each."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.c.weight = nn.Parameter(self.b.weight.data)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.d(torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))))

    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for make in (lambda p: torch.optim.Adafactor(p, 0.01), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)):
        models = [randomised(Shared().double()) for _ in range(2)]
        optimizers = [make(model.parameters()) for model in models]

        def steps(count: int, models=models, optimizers=optimizers) -> None:
            for _ in range(count):
                for model, optimizer in zip(models, optimizers, strict=True):
                    optimizer.zero_grad()
                    model(x).square().sum().backward()
                    optimizer.step()

        steps(3)
        analysis = analyse(models[1], x)
        plan = Plan.from_orders(analysis, random_orders(free_axes(analysis)))
        assert any("c.weight" in move.names for move in plan.moves)
        plan.apply(models[1], optimizers[1])
        steps(3)
        assert relative_error(outputs_of(models[0], x), outputs_of(models[1], x)) < 1e-9


class Wrapping(torch.optim.Optimizer):
    """Shows the groups and the state of another optimizer, as accelerate's does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)


def test_the_state_of_several_optimizers_moves_once_each() -> None:
    """Two optimizers share a weight; one that is named twice, or wrapped by another, is one."""
    model, inputs, plan = planned("linear_chain")
    model.double()
    inputs = inputs.double()
    moved = copy.deepcopy(model)
    optimizers = []
    for net in (model, moved):
        weights = list(net.parameters())
        optimizers.append([torch.optim.Adam(weights[:-1], 0.01), torch.optim.SGD(weights[1:], 0.01, momentum=0.9)])

    def steps() -> None:
        for net, pair in zip((model, moved), optimizers, strict=True):
            for _ in range(3):
                net.zero_grad()
                net(inputs).square().mean().backward()
                for optimizer in pair:
                    optimizer.step()

    steps()
    adam, sgd = optimizers[1]
    plan.apply(moved, iter([adam, sgd, Wrapping(sgd), adam]))
    steps()
    assert relative_error(outputs_of(model, inputs), outputs_of(moved, inputs)) < 1e-9


def test_what_is_no_optimizer_is_refused_before_anything_moves() -> None:
    model, _, plan = planned("linear_chain")
    before = copy.deepcopy(model.state_dict())
    for wrong in ("adam", model.parameters(), [torch.optim.SGD(model.parameters(), 0.1), model], {"a": 1}, 3):
        with pytest.raises(ValueError, match=r"takes a torch.optim.Optimizer, or several of them in a list"):
            plan.apply(model, wrong)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_identity_of_parameters_grad_flags_and_wrappers() -> None:
    model, inputs, plan = planned("linear_chain")
    model[0].weight.requires_grad_(False)
    parameters = list(model.parameters())
    before = outputs_of(model, inputs)
    plan.apply(nn.DataParallel(model))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert not model[0].weight.requires_grad
    assert relative_error(before, outputs_of(model, inputs)) < 1e-5
    average = torch.optim.swa_utils.AveragedModel(model)
    plan.inverse().apply(average)
    assert relative_error(before, outputs_of(average, inputs)) < 1e-5


def test_a_model_that_does_not_fit_is_refused_and_unchanged() -> None:
    _, _, plan = planned("linear_chain")
    renamed = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
    wider = randomised(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)))
    before = copy.deepcopy(wider.state_dict())
    with pytest.raises(ValueError, match=r"'2\.weight', which Sequential does not have"):
        plan.apply(renamed)
    with pytest.raises(ValueError, match=r"shape \(12, 16\); here it is \(8, 16\)"):
        plan.apply(wider)
    assert all(torch.equal(value, before[key]) for key, value in wider.state_dict().items())


def test_tensors_tied_after_the_plan_was_made_are_refused() -> None:
    model, _, plan = planned("linear_chain")
    model.register_parameter("other", model[0].bias)
    (move,) = (move for move in plan.moves if move.names == ("0.bias",))
    tied = Plan((*plan.moves, plan_module.Move(("other",), move.shape, 0, 0, move.order)))
    with pytest.raises(ValueError, match="are one tensor in this model"):
        tied.apply(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.update(format="other"), "not a plan"),
        (lambda d: d["orders"][0].__setitem__(0, d["orders"][0][1]), "not a permutation"),
        (lambda d: d["moves"][0].update(dims=[0, 7]), "damaged"),
        (lambda d: d["moves"][0].pop("shape"), "damaged"),
        (lambda d: d["moves"][0].update(order=10**6), "damaged"),
    ],
)
def test_damaged_plans_are_refused(damage, message: str) -> None:
    data = planned("linear_chain")[2].to_json()
    damage(data)
    with pytest.raises(ValueError, match=message):
        Plan.from_json(json.loads(json.dumps(data)))


def test_a_file_that_is_no_plan(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match="is not a plan"):
        Plan.load(tmp_path / "x")


def test_a_failure_half_way_puts_back_what_was_moved(monkeypatch) -> None:
    model, _, plan = planned("ResidualSqueezeExcite")
    before = copy.deepcopy(model.state_dict())
    calls = []

    def fail_late(self, tensor, original=plan_module.Move.__call__):
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError
        return original(self, tensor)

    monkeypatch.setattr(plan_module.Move, "__call__", fail_late)
    with pytest.raises(MemoryError):
        plan.apply(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_interruption_waits_until_all_is_moved(monkeypatch) -> None:
    model, inputs, plan = planned("ResidualSqueezeExcite")
    before = outputs_of(model, inputs)
    state = copy.deepcopy(model.state_dict())

    def interrupt(self, tensor, original=plan_module.Move.__call__):
        signal.raise_signal(signal.SIGINT)
        return original(self, tensor)

    monkeypatch.setattr(plan_module.Move, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan.apply(model)
    assert relative_error(before, outputs_of(model, inputs)) < 1e-4
    assert any(not torch.equal(value, state[key]) for key, value in model.state_dict().items())
