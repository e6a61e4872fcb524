"""The one pruning trial: its phases are the pieces that they are made of, bit for bit."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sparselab as sl
from sparselab.network.control import random_plan
from sparselab.saliency import collect_activations
from sparselab.tasks import PruningTrial, Recipe, Task, fresh_model, recalibrate, train
from sparselab.tasks.loop import _order
from sparselab.trackers import MaskChurnTracker


def network():
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(96, 16, generator=generator), torch.randint(8, (96,), generator=generator))
    return Task(
        "blobs", network, data, data, example_inputs=torch.zeros(2, 16), recipe=Recipe("sgd,0.1", batch_size=16)
    )


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("schedule", ["one_shot", "recompute,2"])
@pytest.mark.parametrize("permutation", [None, "channel_swap"])
def test_the_phases_are_what_they_are_made_of(task, schedule, permutation):
    trial = PruningTrial("2:4", permutation, schedule, steps=5, seed=3, batches=7)
    model = fresh_model(task)
    by_hand = copy.deepcopy(model)
    sparsifier = trial.prune(task, model)
    trial.recalibrate(task, model)
    churn = MaskChurnTracker(sparsifier)
    trained = trial.finetune(task, model, sparsifier, [churn])
    assert trained.steps == trial.steps_of(task) == 5
    assert sparsifier.enabled
    assert bool(len(churn.frame)) == (schedule != "one_shot")

    mine = sl.Sparsifier(by_hand, "2:4", schedule=schedule, permutation=permutation, example_inputs=torch.zeros(2, 16))
    mine.compute()
    recalibrate(task, by_hand, seed=3)
    train(task, by_hand, steps=5, seed=7, sparsifier=mine)
    assert same(model, by_hand)


def test_the_dense_control_trains_on_alike(task):
    trial, model = PruningTrial(None, steps=2), fresh_model(task)
    by_hand = copy.deepcopy(model)
    assert trial.prune(task, model) is None
    trial.finetune(task, model, None)
    train(task, by_hand, steps=2)
    assert same(model, by_hand)
    assert PruningTrial(None).steps_of(task) == 6


def test_a_plan_moves_the_channels_first(task):
    model = fresh_model(task)
    x = torch.randn(4, 16)
    expected = model.eval()(x)
    plan = random_plan(model, torch.zeros(2, 16), seed=1)
    before = model[0].weight.clone()
    assert PruningTrial(None, plan=plan).prune(task, model) is None
    assert not torch.equal(model[0].weight, before)
    assert torch.allclose(model(x), expected, atol=1e-5)


@pytest.mark.parametrize("saliency", ["wanda", "ria", "ria,power=0.3"])
def test_a_saliency_that_scores_by_data_gets_those_of_the_dense_network(task, saliency):
    model = fresh_model(task)
    by_hand = copy.deepcopy(model)
    masks = PruningTrial("2:4", saliency=saliency, seed=5).prune(task, model).masks
    chosen = _order(96, 5, 0)
    batches = [task.train_data[chosen[:64]], task.train_data[chosen[64:]]]
    norms = collect_activations(by_hand, batches, forward=task.loss)
    mine = sl.Sparsifier(by_hand, "2:4", saliency=norms.saliency(saliency))
    mine.compute()
    assert all(torch.equal(masks[name], mine.masks[name]) for name in masks)


@pytest.mark.parametrize("steps", [-1, 1.5, True, "3"])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(ValueError, match="must be a whole number of optimizer steps"):
        PruningTrial(steps=steps)


def test_a_pattern_that_fits_no_layer(task):
    with pytest.raises(ValueError, match=r"pattern 2:64 fits no layer of blobs; sl.magnitude_report says why"):
        PruningTrial("2:64").prune(task, fresh_model(task))
