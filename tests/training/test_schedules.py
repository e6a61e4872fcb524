"""Every schedule against its definition in plain Python, and what all of them promise."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

import sparselab as sl
from sparselab.testing import ScheduleContract, ScheduledRun
from sparselab.training.schedules import SCHEDULES

from .helpers import mlp, most_in_a_group

# The contract: a schedule's line here is all that a new one adds. (spec, steps after which the model is N:M for good)
CASES = [
    ("one_shot", 0),
    ("one_shot,3", 3),
    ("recompute,every=3", 0),
    ("recompute,3,until=6", 0),
    ("recompute,4,regrow=true,grow=2,until=8", 8),
    ("gradual,2,6", 6),
    ("gradual,0,4", 4),
    ("decay,0,6", 6),
    ("decay,2,7,exponential", 7),
    ("sr_ste", 0),
    ("sr_ste,0.01,every=2", 0),
    ("transposable,every=2", 0),
]
X = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))


def run(spec: str, steps: int, *, pattern: str = "2:4", rate: float = 0.05) -> list[dict[str, Tensor]]:
    """The weights after 0, 1, ... ``steps`` steps; the optimizer is plain gradient descent."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    sparsifier = sl.Sparsifier(model, pattern, schedule=spec)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    history = [{name: p.detach().clone() for name, p in model.named_parameters()}]
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
        history.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return history


def top_two_of_four(weight: Tensor, keep: int = 2) -> Tensor:
    mask = torch.zeros_like(weight, dtype=torch.bool)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], 4):
            ranked = sorted(range(start, start + 4), key=lambda c: (-abs(weight[row, c].item()), c))
            mask[row, ranked[:keep]] = True
    return mask


def test_every_schedule_is_in_the_contract():
    assert {spec.partition(",")[0] for spec, _ in CASES} == set(SCHEDULES.names())


class TestContract(ScheduleContract):
    @pytest.fixture(params=CASES, ids=[spec for spec, _ in CASES])
    def run(self, request):
        spec, done = request.param
        return ScheduledRun(spec, done, "m4n2_2d_best" if "transposable" in spec else "2:4")


def test_one_shot_waits_for_its_dense_steps():
    history = run("one_shot,3", 4)
    assert [most_in_a_group(weights["0.weight"]) for weights in history] == [4, 4, 4, 2, 2]


def test_recompute_brings_pruned_values_back():
    """Without training (rate 0): what was pruned returns, and the same masks are found again."""
    history = run("recompute,2", 4, rate=0.0)
    assert all(torch.equal(weights["0.weight"], history[0]["0.weight"]) for weights in history)


def test_recompute_against_its_definition():
    every, rate = 3, 0.3
    history = run(f"recompute,{every}", 9, rate=rate)
    model = mlp()
    names = ["0.weight", "2.weight"]
    dense = {name: model.get_parameter(name).detach().clone() for name in names}
    masks = {name: top_two_of_four(dense[name]) for name in names}
    pruned = {name: dense[name] * ~masks[name] for name in names}
    for name in names:
        model.get_parameter(name).data.mul_(masks[name])
    for step in range(1, 10):
        model.zero_grad()
        model(X).square().mean().backward()
        for name, parameter in model.named_parameters():
            parameter.data.sub_(rate * parameter.grad * masks.get(name, 1))
        if step % every == 0:
            for name in names:
                whole = model.get_parameter(name).detach() + pruned[name]
                masks[name] = top_two_of_four(whole)
                pruned[name] = whole * ~masks[name]
                model.get_parameter(name).data.copy_(whole * masks[name])
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), history[step][name])
    assert any((history[0][n] != 0).ne(history[9][n] != 0).any() for n in names)


def test_regrown_weights_start_from_zero():
    history = run("recompute,4,regrow=true,grow=1", 8, rate=0.2)
    groups = [most_in_a_group(weights["0.weight"]) for weights in history]
    # The mask is lifted after step 3 (the weights are still zero), step 4 trains all and prunes again.
    assert groups == [2] * 9
    model = mlp()
    reference = history[3]
    model.load_state_dict(reference)
    model(X).square().mean().backward()
    grown = reference["0.weight"] - 0.2 * model[0].weight.grad
    torch.testing.assert_close(history[4]["0.weight"], grown * top_two_of_four(grown))
    growing = run("recompute,4,regrow=true,grow=2", 4, rate=0.2)
    assert [most_in_a_group(weights["0.weight"]) for weights in growing] == [2, 2, 2, 4, 2]


def test_gradual_takes_one_of_every_group_at_a_time():
    assert [most_in_a_group(w["0.weight"]) for w in run("gradual,2,6", 7)] == [4, 4, 3, 3, 3, 3, 2, 2]
    assert [most_in_a_group(w["0.weight"]) for w in run("gradual,1,5", 6, pattern="1:4")] == [4, 3, 3, 2, 2, 1, 1]
    assert [most_in_a_group(w["0.weight"], 8) for w in run("gradual,0,3", 3, pattern="7:8")] == [8, 8, 8, 7]
    stages = run("gradual,1,3", 3, rate=0.0)
    dense = mlp()[0].weight.detach()
    for weights, keep in zip(stages, (4, 3, 3, 2)):
        assert torch.equal(weights["0.weight"], dense * top_two_of_four(dense, keep))


@pytest.mark.parametrize("shape", ["linear", "exponential"])
def test_decay_fades_what_the_mask_takes(shape):
    """Without training, a pruned weight is its first value times the factor, and a kept one does not move."""
    history = run(f"decay,1,5,{shape}", 6, rate=0.0)
    dense = mlp()[0].weight.detach()
    mask = top_two_of_four(dense)
    linear, exponential = [1, 1, 0.75, 0.5, 0.25, 0, 0], [1, 1, 10**-0.75, 10**-1.5, 10**-2.25, 0, 0]
    for weights, factor in zip(history, linear if shape == "linear" else exponential):
        torch.testing.assert_close(weights["0.weight"], torch.where(mask, dense, dense * factor))


@pytest.mark.parametrize("shape", ["linear", "exponential"])
def test_decay_against_its_definition(shape):
    """Every weight trains at every step before ``end``; after it, what the masks take is multiplied by the ratio."""
    rate = 0.3
    history = run(f"decay,2,6,{shape}", 8, rate=rate)
    factors = [1, 0.75, 0.5, 0.25, 0] if shape == "linear" else [1, 10**-0.75, 10**-1.5, 10**-2.25, 0]
    model = mlp()
    masks = {}
    for step in range(1, 9):
        model.zero_grad()
        model(X).square().mean().backward()
        for name, parameter in model.named_parameters():
            gone = step > 6 and name in masks
            parameter.data.sub_(rate * parameter.grad * (masks[name] if gone else 1))
            if step == 2 and "weight" in name:
                masks[name] = top_two_of_four(parameter.detach())
            elif 2 < step <= 6 and name in masks:
                parameter.data[~masks[name]] *= factors[step - 2] / factors[step - 3]
            torch.testing.assert_close(parameter.detach(), history[step][name])
    assert len(masks) == 2


def test_recompute_until_keeps_the_masks_of_that_step():
    def masks_of(history):
        return [weights["0.weight"] != 0 for weights in history]

    always, until = masks_of(run("recompute,2", 8, rate=1.0)), masks_of(run("recompute,2,until=5", 8, rate=1.0))
    changed = [not torch.equal(one, other) for one, other in itertools.pairwise(always)]
    assert changed == [False, True, False, True, False, True, False, True]
    assert all(torch.equal(one, other) for one, other in zip(always[:6], until[:6]))
    assert all(torch.equal(mask, until[4]) for mask in until[4:])


@pytest.mark.parametrize("every", [1, 2])
def test_sr_ste_against_its_definition(every):
    """Dense weights w and w <- w - rate * (gradient at mask * w + decay * ~mask * w), masks from w."""
    decay, rate = 0.5, 0.3
    history = run(f"sr_ste,{decay},{every}", 7, rate=rate)
    model = mlp()
    names = ["0.weight", "2.weight"]
    dense = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    masks = {name: top_two_of_four(dense[name]) for name in names}
    for step in range(8):
        for name, parameter in model.named_parameters():
            parameter.data.copy_(dense[name] * masks.get(name, 1))
            torch.testing.assert_close(parameter.detach(), history[step][name])
        model.zero_grad()
        model(X).square().mean().backward()
        for name, parameter in model.named_parameters():
            penalty = decay * ~masks[name] * dense[name] if name in masks else 0
            dense[name] -= rate * (parameter.grad + penalty)
        if (step + 1) % every == 0:
            masks = {name: top_two_of_four(dense[name]) for name in names}
    assert any((history[0][n] != 0).ne(history[7][n] != 0).any() for n in names)


def test_without_decay_or_training_straight_through_changes_nothing():
    history = run("sr_ste,0", 3, rate=0.0)
    assert all(torch.equal(weights["0.weight"], history[0]["0.weight"]) for weights in history)


def test_transposable_masks_serve_both_products_and_stay_a_while():
    history = run("transposable,every=3", 7, pattern="m4n2_2d_best", rate=0.3)
    masks = [weights["0.weight"] != 0 for weights in history]
    for mask in masks:
        assert most_in_a_group(mask) == most_in_a_group(mask.T) == 2
    changed = [not torch.equal(one, other) for one, other in itertools.pairwise(masks)]
    assert changed == [False, False, True, False, False, True, False]
    for pattern in ("2:4", "unstructured,0.5"):
        with pytest.raises(ValueError, match="'transposable' needs a 2d pattern such as 'm4n2_2d_best', got"):
            sl.Sparsifier(mlp(), pattern, schedule="transposable")


class TestStraightThrough:
    """What a schedule that moves dense weights does where a step is not the usual one."""

    def start(self, optimizer_of):
        model = mlp()
        optimizer = optimizer_of(model.parameters())
        sparsifier = sl.Sparsifier(model, schedule="sr_ste,0.1")
        sparsifier.attach(optimizer)
        sparsifier.compute()

        def closure() -> Tensor:
            assert sparsifier.enabled  # gradients are always those of the pruned weights
            optimizer.zero_grad()
            loss = model(X).square().mean()
            loss.backward()
            return loss

        return model, optimizer, sparsifier, closure

    def test_a_closure_gives_the_same_step(self):
        expected = run("sr_ste,0.1", 3, rate=0.05)[-1]
        model, optimizer, _, closure = self.start(lambda parameters: torch.optim.SGD(parameters, 0.05))
        for _ in range(3):
            optimizer.step(closure)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name])

    def test_an_optimizer_that_evaluates_often_sees_pruned_weights_each_time(self):
        _, optimizer, sparsifier, closure = self.start(lambda parameters: torch.optim.LBFGS(parameters, max_iter=4))
        optimizer.step(closure)
        assert sparsifier.enabled

    def test_a_step_that_fails_half_way_loses_nothing(self):
        _, optimizer, sparsifier, closure = self.start(lambda parameters: torch.optim.SGD(parameters, 0.05))
        dense = [sparsifier.weights.dense(layer).clone() for layer in sparsifier.weights.layers]
        closure()
        handle = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        handle.remove()
        sparsifier.state_dict()
        assert sparsifier.enabled
        for layer, before in zip(sparsifier.weights.layers, dense):
            assert torch.equal(sparsifier.weights.dense(layer), before)

    def test_a_checkpoint_replaces_what_a_failed_step_left(self):
        model, optimizer, sparsifier, closure = self.start(lambda parameters: torch.optim.SGD(parameters, 0.05))
        optimizer.step(closure)
        saved = copy.deepcopy((model.state_dict(), sparsifier.state_dict()))
        optimizer.step(closure)
        expected = copy.deepcopy(model.state_dict())
        handle = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
        closure()
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        handle.remove()
        model.load_state_dict(saved[0])
        sparsifier.load_state_dict(saved[1])
        optimizer.step(closure)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())

    def test_the_decay_is_the_same_whoever_unscales_the_gradients(self):
        """A fused optimizer divides by GradScaler's factor inside its step, when the decay is in the gradients already."""
        dense = []
        for fused in (False, True):
            model, optimizer, sparsifier, _ = self.start(lambda p: torch.optim.SGD(p, 0.05, fused=fused))  # noqa: B023
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            for _ in range(3):
                optimizer.zero_grad()
                scaler.scale(model(X).square().mean()).backward()
                scaler.step(optimizer)
                scaler.update()
            dense.append([sparsifier.weights.dense(layer) for layer in sparsifier.weights.layers])
        for plain, fused in zip(*dense):
            torch.testing.assert_close(fused, plain)

    def test_a_second_optimizer_is_refused(self):
        model, _, sparsifier, _ = self.start(lambda parameters: torch.optim.SGD(parameters, 0.05))
        with pytest.raises(ValueError, match=r"SrSte\(decay=0.1, every=1\) works with one optimizer"):
            sparsifier.attach(torch.optim.SGD(model.parameters(), 0.1))


def test_options_out_of_range_are_refused():
    for spec in (
        "one_shot,-1",
        "recompute,3,regrow=true,grow=3",
        "gradual,5,2",
        "decay,0,9,quadratic",
        "sr_ste,-1",
        "sr_ste,every=0",
    ):
        with pytest.raises(ValueError, match=r"must|valid"):
            SCHEDULES.resolve(spec)
