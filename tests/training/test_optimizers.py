"""Optimizers as users have them: inside others, of other weights, with a second copy of the weights."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.optimizers import Keepers, innermost, levels
from sparselab.trackers import ThroughputTracker
from tests.training.helpers import mlp, most_in_a_group
from tests.training.wrapping import (
    Averaging,
    Bare,
    Container,
    Delegating,
    ListedLookahead,
    Lookahead,
    Mastered,
    Proper,
    SGDScheduleFree,
)

X = torch.randn(4, 32, generator=torch.Generator().manual_seed(5))


def sgd(model: nn.Module, **options) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, **options})


def train(model: nn.Module, optimizer, steps: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


def stepped(wrap, schedule: str = "one_shot", steps: int = 4):
    """A masked run whose optimizer is ``wrap(SGD)``, and the optimizer inside."""
    model = mlp()
    inner = sgd(model)
    outer = wrap(inner)
    sparsifier = sl.Sparsifier(model, "2:4", schedule=schedule)
    sparsifier.attach(outer)
    sparsifier.compute()
    train(model, outer, steps)
    return model, sparsifier, inner


def in_a_circle(inner):
    outer = Bare(inner)
    inner.back = outer
    return outer


WRAPPERS = {
    "accelerate's": Bare,
    "lightning's": Delegating,
    "sam's": Proper,
    "three deep": lambda inner: Bare(Delegating(Proper(inner))),
    "a circle": in_a_circle,
    "a container": Container,
}


class TestWrapped:
    """An optimizer inside another is the one whose steps count."""

    @pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
    @pytest.mark.parametrize("schedule", ["recompute,2", "sr_ste,0.01"])
    def test_the_same_bits_as_without_the_wrapper(self, wrap, schedule):
        model, sparsifier, inner = stepped(wrap, schedule)
        plain, other, _ = stepped(lambda inner: inner, schedule)
        assert sparsifier.step == other.step == 4
        assert sparsifier.optimizers == (inner,)
        assert sparsifier.enabled
        for name, tensor in plain.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name

    def test_a_scheduler_leads_to_its_optimizer(self):
        model = mlp()
        inner = sgd(model)
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(torch.optim.lr_scheduler.StepLR(inner, 1))
        sparsifier.compute()
        train(model, inner)
        assert sparsifier.enabled
        assert sparsifier.optimizers == (inner,)

    def test_detaching_either_lets_go(self):
        for detached in (0, 1):
            model = mlp()
            inner = sgd(model)
            outer = Bare(inner)
            sparsifier = sl.Sparsifier(model, "2:4")
            sparsifier.attach(outer)
            sparsifier.attach(outer)
            sparsifier.compute()
            sparsifier.detach((outer, inner)[detached])
            train(model, outer, 1)
            assert sparsifier.step == 0
            assert not sparsifier.enabled

    def test_a_container_of_several_and_its_clock(self):
        model = mlp()
        parts = Container(sgd(model[0]), sgd(model[2]))
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(parts)
        sparsifier.compute()
        train(model, parts, 3)
        assert sparsifier.enabled
        assert sparsifier.step == 3
        with pytest.raises(ValueError, match="works with one optimizer: give it all the parameters"):
            sl.Sparsifier(net := mlp(), schedule="sr_ste").attach(Container(sgd(net[0]), sgd(net[2])))

    def test_an_optimizer_held_for_another_model_is_not_inside(self):
        model = mlp()
        optimizer = sgd(model)
        optimizer.teacher = sgd(mlp())
        assert levels(optimizer) == innermost(optimizer) == (optimizer,)

    def test_copies_and_pickles_go_on(self):
        model, sparsifier, _ = stepped(Delegating)
        for copied in (copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))):
            model2, sparsifier2 = copied((model, sparsifier))
            train(model2, sparsifier2.optimizers[0], 2)
            assert sparsifier2.enabled
            assert sparsifier2.step == 6
        assert sparsifier.step == 4

    def test_a_tracker_counts_the_steps_of_the_one_inside(self):
        model = mlp()
        outer = Bare(sgd(model))
        tracker = ThroughputTracker(every=1)
        tracker.attach(outer)
        train(model, outer, 3)
        assert tracker.step == 3

    def test_asp_too(self):
        model = mlp()
        outer = Bare(sgd(model))
        sl.ASP.prune_trained_model(model, outer)
        train(model, outer)
        assert sl.ASP.is_sparsity_enabled()
        sl.ASP.reset()

    def test_accelerate_with_accumulated_gradients(self):
        accelerate = pytest.importorskip("accelerate")
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = mlp()
        model, optimizer = accelerator.prepare(model, sgd(model))
        sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,2")
        sparsifier.attach(optimizer)
        sparsifier.compute()
        for _ in range(6):
            with accelerator.accumulate(model):
                accelerator.backward(model(X).square().mean())
                optimizer.step()
                optimizer.zero_grad()
        assert type(optimizer).__name__ == "AcceleratedOptimizer"
        assert sparsifier.step == 3
        assert sparsifier.enabled


class Calling(torch.optim.SGD):
    """PyTorch calls hooks around this step, and around that of SGD inside it."""

    fails = False

    def step(self, closure=None):
        loss = super().step(closure)
        if self.fails:
            raise KeyboardInterrupt
        return loss


@pytest.mark.parametrize("schedule", ["recompute,2", "sr_ste,0.1"])
def test_a_step_that_calls_its_parents_is_one_step(schedule):
    runs = {}
    for kind in (torch.optim.SGD, Calling):
        model = mlp()
        optimizer = kind(model.parameters(), lr=0.05, momentum=0.9)
        sparsifier = sl.Sparsifier(model, "2:4", schedule=schedule)
        sparsifier.attach(optimizer)
        tracker = ThroughputTracker(every=1)
        tracker.attach(optimizer)
        sparsifier.compute()
        train(model, optimizer)
        assert sparsifier.step == tracker.step == 4
        runs[kind] = model
    for name, tensor in runs[Calling].state_dict().items():
        assert torch.equal(tensor, runs[torch.optim.SGD].state_dict()[name]), name
    optimizer.fails = True
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer, 1)
    optimizer.fails = False
    train(model, optimizer, 2)
    assert sparsifier.step == 6
    assert sparsifier.enabled


class NoOptimizer(torch.optim.Optimizer):
    def __init__(self):
        self.param_groups = []

    def step(self, closure=None):
        return None


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (None, r"attach takes a torch\.optim\.Optimizer, or what holds one as \.optimizer, got None"),
        (NoOptimizer(), r"extend torch\.optim\.Optimizer and call super\(\)\.__init__"),
        ([], r"several optimizers in one argument: attach them one by one"),
    ],
)
def test_what_is_no_optimizer_is_refused(optimizer, message):
    with pytest.raises(ValueError, match=message):
        sl.Sparsifier(mlp(), "2:4").attach(optimizer)


class TestOtherWeights:
    """An optimizer that moves other tensors than those of the model is an error that says which are not moved."""

    def refused(self, model: nn.Module, optimizer, message: str) -> None:
        sparsifier = sl.Sparsifier(model, "2:4")
        start = r"SGD holds none of the 2 masked weights \(0\.weight, 2\.weight\): "
        with pytest.raises(ValueError, match=start + message):
            sparsifier.attach(optimizer)
        assert sparsifier.optimizers == ()

    def test_another_model(self):
        self.refused(mlp(), sgd(nn.Linear(5, 3)), "it is the optimizer of another model. Make it of the parameters")

    def test_the_model_before_a_copy(self):
        model = mlp()
        message = r"it has tensors of the same shapes, but others: the model was copied \(deepcopy\), sharded or"
        self.refused(copy.deepcopy(model), sgd(model), message)

    def test_master_copies_beside_norms_that_are_shared(self):
        model = mlp().bfloat16()
        masters = [p.detach().float().requires_grad_() for p in model.parameters() if p.ndim > 1]
        optimizer = torch.optim.SGD([*masters, model[0].bias, model[2].bias], lr=0.1)
        self.refused(model, optimizer, "its tensors have the same shapes in float32, the weights are bfloat16: master")

    def test_a_generator_that_was_used_up(self):
        model = mlp()
        parameters = model.parameters()
        list(parameters)
        optimizer = sgd(model)
        optimizer.param_groups.clear()
        optimizer.add_param_group({"params": list(parameters)})
        self.refused(model, optimizer, "it has no parameters at all. Was the generator that it was made of used up")

    def test_a_flat_buffer_in_which_the_weights_lie_is_theirs(self):
        model = mlp()
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])
        at = 0
        for p in model.parameters():
            p.data = flat[at : at + p.numel()].view_as(p)
            at += p.numel()
        sl.Sparsifier(model, "2:4").attach(torch.optim.SGD([nn.Parameter(flat)], lr=0.1))

    def test_one_of_several_is_accepted_and_weights_that_none_moves_are_in_the_log_once(self, caplog):
        model = mlp()
        optimizer = torch.optim.SGD([model[0].bias, model[2].weight], lr=0.1)
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(torch.optim.SGD([model[0].bias, model[2].bias], lr=0.1))
        sparsifier.attach(optimizer)
        sparsifier.compute()
        train(model, optimizer)
        said = [record.getMessage() for record in caplog.records]
        assert said == [
            "no attached optimizer moves 1 of the 2 masked weights (['0.weight']): if another one does, attach it too"
        ]

    def test_frozen_weights_need_no_optimizer(self, caplog):
        model = mlp()
        model[0].weight.requires_grad_(False)
        model[2].weight.requires_grad_(False)
        optimizer = torch.optim.SGD([model[0].bias], lr=0.1)
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(optimizer)
        sparsifier.compute()
        train(model, optimizer)
        assert not caplog.records
        assert sparsifier.step == 4


COPIES = {
    "asgd": (lambda model: torch.optim.ASGD(model.parameters(), lr=0.05, t0=0), lambda o, p: o.state[p]["ax"]),
    "schedule-free": (lambda model: SGDScheduleFree(model.parameters()), lambda o, p: o.state[p]["z"]),
    "lookahead": (lambda model: Lookahead(sgd(model)), lambda o, p: o._slow(p)),
    "lookahead, lists": (lambda model: ListedLookahead(sgd(model)), lambda o, p: o._slow(p)),
    "masters": (lambda model: Mastered(model.parameters()), lambda o, p: o.state[p]["master_param"]),
    "inside another": (lambda model: Bare(SGDScheduleFree(model.parameters())), lambda o, p: o.state[p]["z"]),
}


class TestSecondCopies:
    """What an optimizer keeps of the weights is pruned as they are."""

    @pytest.mark.parametrize(("make", "copy_of"), COPIES.values(), ids=COPIES)
    def test_trained_as_if_everything_were_masked_by_hand(self, make, copy_of):
        model, twin = mlp(), mlp()
        optimizer, twin_optimizer = make(model), make(twin)
        train(model, optimizer, 3)  # dense: the copies have values where masks will say zero
        train(twin, twin_optimizer, 3)
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(optimizer)
        sparsifier.compute()
        masked = [(twin.get_parameter(name), mask) for name, mask in sparsifier.masks.items()]

        def by_hand() -> None:
            with torch.no_grad():
                for weight, mask in masked:
                    weight.mul_(mask)
                    copy_of(twin_optimizer, weight).mul_(mask)

        by_hand()
        for _ in range(5):
            train(model, optimizer, 1)
            twin_optimizer.zero_grad()
            twin(X).square().mean().backward()
            for weight, mask in masked:
                weight.grad.mul_(mask)
            twin_optimizer.step()
            by_hand()
            assert sparsifier.enabled
        for name, mask in sparsifier.masks.items():
            assert not copy_of(optimizer, model.get_parameter(name))[~mask].any()
            torch.testing.assert_close(model.get_parameter(name), twin.get_parameter(name))

    def test_the_weights_of_evaluation_are_pruned(self):
        model = mlp()
        optimizer = SGDScheduleFree(model.parameters())
        train(model, optimizer, 3)
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(optimizer)
        sparsifier.compute()
        optimizer.eval()
        assert most_in_a_group(model[0].weight) == 2

    def test_entries_that_come_back_start_from_the_weight(self):
        model = mlp()
        optimizer = SGDScheduleFree(model.parameters())
        train(model, optimizer, 3)
        sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
        sparsifier.attach(optimizer)
        sparsifier.compute()
        mask = sparsifier.masks["0.weight"].clone()
        z = optimizer.state[model[0].weight]["z"]
        kept = z.clone()
        sparsifier.restore()
        assert torch.equal(z, torch.where(mask, kept, model[0].weight))
        assert z.ne(0).all()

    def test_moments_are_left_alone(self):
        """With and without sparselab, moments of an optimizer that knows no masks are the same."""
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        train(model, optimizer, 2)
        before = copy.deepcopy(optimizer.state_dict())
        sparsifier = sl.Sparsifier(model, "2:4")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsifier.attach(optimizer)
            sparsifier.compute()
        for index, state in before["state"].items():
            assert all(torch.equal(value, optimizer.state_dict()["state"][index][key]) for key, value in state.items())

    def test_gradients_that_are_a_multiple_of_the_weight_are_no_copies(self):
        model = nn.Linear(16, 8)
        optimizer = Averaging(model.parameters(), 1e-9, momentum=0.9)
        model.weight.grad = model.weight.detach().clone()
        optimizer.step()
        del optimizer.state[model.weight]["mine"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sl.Sparsifier(model, "2:4").attach(optimizer)

    def test_a_copy_of_an_unknown_name_is_named_once(self):
        model = mlp()
        optimizer = Averaging(model.parameters(), 0.01, momentum=0.9)
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(optimizer)
        sparsifier.compute()
        with pytest.warns(UserWarning, match="'mine' of Averaging holds a second copy of the weights, as it") as said:
            train(model, optimizer)
        assert len(said) == 1
        assert "prune it then, by sparsifier.apply_to(model), or by finalize() at the end" in str(said[0].message)

    def test_dense_weights_that_a_schedule_trains_keep_their_copies(self):
        model = mlp()
        optimizer = SGDScheduleFree(model.parameters())
        train(model, optimizer, 2)
        sparsifier = sl.Sparsifier(model, "2:4", schedule="sr_ste")
        with pytest.warns(UserWarning, match="masks leave as they are, since they are dense while the schedule"):
            sparsifier.attach(optimizer)
        sparsifier.compute()
        assert optimizer.state[model[0].weight]["z"].ne(0).all()

    @pytest.mark.parametrize("make", [Lookahead, ListedLookahead])
    def test_permuting_moves_them(self, make):
        model, x = mlp(), X
        optimizer = make(sgd(model))
        train(model, optimizer, 2)
        held = {id(p): optimizer._slow(p).clone() for p in model.parameters()}
        before = {id(p): p.detach().clone() for p in model.parameters()}
        sparsifier = sl.Sparsifier(model, "2:4", example_inputs=x, keep_pruned=True, permutation="random,20")
        sparsifier.attach(optimizer)
        sparsifier.compute()
        sparsifier.restore()
        assert not torch.equal(model[0].weight, before[id(model[0].weight)])
        for p in model.parameters():  # each value of the weight has the slow value that it had
            slow_of = dict(zip(before[id(p)].flatten().tolist(), held[id(p)].flatten().tolist()))
            expected = torch.tensor([slow_of[value] for value in p.flatten().tolist()]).view(p.shape)
            if p.ndim == 1:
                assert torch.equal(optimizer._slow(p), expected)

    def test_what_is_kept_is_found_once(self):
        model = mlp()
        optimizer = Bare(ListedLookahead(sgd(model)))
        train(model, optimizer, 2)
        names = [kept.name for kept in Keepers([optimizer]).of(model[0].weight)]
        assert sorted(names) == ["momentum_buffer", "slow_weights"]


def test_an_average_made_after_the_sparsifier_follows_and_is_pruned_by_apply_to():
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 8))
    optimizer = sgd(model)
    sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,1")
    sparsifier.attach(optimizer)
    average = torch.optim.swa_utils.AveragedModel(model)
    sparsifier.compute()
    weights = []
    for _ in range(3):
        train(model, optimizer, 1)
        average.update_parameters(model)
        weights.append(model[0].weight.detach().clone())
    torch.testing.assert_close(average.module[0].weight.detach(), torch.stack(weights).mean(0))
    sparsifier.apply_to(average)
    assert torch.equal(average.module[0].weight != 0, sparsifier.masks["0.weight"])


def test_the_loggers_level_decides_what_is_said(caplog):
    caplog.set_level(logging.ERROR, logger="sparselab")
    model = mlp()
    optimizer = torch.optim.SGD([model[0].weight], lr=0.1)
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.attach(optimizer)
    train(model, optimizer, 1)
    assert not caplog.records
