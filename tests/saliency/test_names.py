"""Saliencies by name: options, plug-ins, what they need, and how they move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparselab as sl
from sparselab.core.moves import Move, moved
from sparselab.core.registry import Registry
from sparselab.masks import calculator
from sparselab.saliency import InputNorms, Ria, Wanda, names
from sparselab.training.choice import Choice


@dataclass(frozen=True)
class Power:
    """From the weight alone, with an option."""

    p: float = 2.0

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.abs() ** self.p


@dataclass(frozen=True, eq=False)
class Sharpened:
    """From data, with an option: no relation of the built-in ones."""

    needs: ClassVar = InputNorms
    inputs: InputNorms
    power: float

    @classmethod
    def of(cls, inputs: InputNorms, *, power: float = 2.0) -> Sharpened:
        return cls(inputs, power)

    def moved(self, move: Move) -> Sharpened:
        return replace(self, inputs=self.inputs.moved(move))

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.detach().abs() * self.inputs.norms.to(weight) ** self.power


@pytest.fixture
def registry(monkeypatch):
    """The registry as it is, and names of this file's own in it for one test."""
    own = Registry("saliency", {name: f"sparselab.saliency.{name}:{name.title()}" for name in ("wanda", "ria")})
    own.register("magnitude", "sparselab.saliency.magnitude:magnitude")
    own.register("power", Power)
    own.register("square", torch.square)
    own.register("sharpened", Sharpened)
    for module in (names, sl.saliency.activations):
        monkeypatch.setattr(module, "SALIENCIES", own)
    return own


def test_every_built_in_name_says_what_it_needs():
    assert {name: sl.saliency.needs(name) for name in ("magnitude", "wanda", "ria")} == {
        "magnitude": None,
        "wanda": InputNorms,
        "ria": InputNorms,
    }
    assert set(sl.saliency.FROM_ACTIVATIONS) == {"wanda", "ria"}


@pytest.mark.parametrize("name", ["magnitude", "wanda", "ria", "ria,power=0.3", "ria,0.3"])
def test_names_are_checked_without_data(name):
    sl.saliency.check_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("magnitud", "unknown saliency 'magnitud'; valid: .*magnitude.* Did you mean 'magnitude'"),
        ("magnitude,2", "saliency 'magnitude' takes at most 0 options"),
        ("wanda,power=1", "unknown option of saliency 'wanda' 'power'"),
        ("ria,pover=1", "unknown option of saliency 'ria' 'pover'; valid: power. Did you mean 'power'"),
        ("ria,power=high", "saliency 'ria': option 'power' must be float, got 'high'"),
        ("ria,channel_dim=0", "unknown option of saliency 'ria' 'channel_dim'"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name, message):
    with pytest.raises(ValueError, match=message):
        sl.saliency.check_name(name)


def test_options_reach_the_saliency():
    model = nn.Sequential(nn.Linear(4, 8))
    activations = sl.saliency.collect_activations(model, [torch.randn(5, 4)])
    assert activations.saliency("ria,power=0.3")["0.weight"].power == 0.3
    assert activations.saliency("ria")["0.weight"].power == 0.5


def test_a_saliency_by_name_is_made_of_the_statistics_it_needs():
    inputs = {"0.weight": InputNorms(torch.ones(1, 4), 1, 1)}
    assert isinstance(sl.saliency.from_statistics("wanda", {InputNorms: inputs})["0.weight"], Wanda)
    with pytest.raises(ValueError, match="saliency 'magnitude' scores by the weight alone: pass the name itself"):
        sl.saliency.from_statistics("magnitude", {InputNorms: inputs})
    with pytest.raises(ValueError, match="'ria' needs statistics of the kind InputNorms, here are none"):
        sl.saliency.from_statistics("ria", {})


def test_a_registered_saliency_from_the_weight_alone_is_found_by_name(registry):
    weight = torch.randn(4, 8)
    assert torch.equal(sl.saliency.scores(weight, "power,3"), weight.abs() ** 3)
    assert torch.equal(sl.saliency.scores(weight, "square"), weight.square())
    by_name = sl.create_mask(weight, "2:4", saliency="power,p=3")
    assert torch.equal(by_name, sl.create_mask(weight, "2:4", saliency=weight.abs() ** 3))
    with pytest.raises(ValueError, match="saliency 'square' takes at most 0 options"):
        sl.saliency.check_name("square,3")


def test_scores_of_a_registered_saliency_are_checked(registry):
    registry.register("signed", torch.neg)
    with pytest.raises(ValueError, match="must not be negative"):
        sl.create_mask(torch.ones(4, 8), "2:4", saliency="signed")


def test_a_registered_saliency_from_data_is_searched_permuted_and_pruned_by(registry):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).double(), torch.randn(9, 8).double()
    activations = sl.saliency.collect_activations(model, [x])
    given = activations.saliency("sharpened,power=1.5")
    with pytest.raises(ValueError, match=r"collect_activations\(model, batches\).saliency\('sharpened'\)"):
        sl.Sparsifier(model, "2:4", saliency="sharpened")
    plan = sl.permute(model, x, saliency=given, strategy="channel_swap").plan
    assert len(plan)
    anew = sl.saliency.collect_activations(model, [x]).saliency("sharpened,1.5")
    for name, after in plan.moved(given).items():
        weight = model.get_parameter(name)
        torch.testing.assert_close(after(weight), anew[name](weight), rtol=1e-10, atol=0)


def test_names_from_activations_are_those_that_need_norms(registry):
    activations = sl.saliency.ActivationNorms({})
    with pytest.raises(ValueError, match="unknown saliency from activations 'power'; valid: ria, sharpened, wanda"):
        activations.saliency("power")


MOVE = Move(("weight",), (2, 3), 1, 1, np.array([2, 0, 1]))


@pytest.mark.parametrize("saliency", [Wanda(torch.arange(3.0)), Ria(torch.arange(3.0), power=0.7)])
def test_a_saliency_moves_with_its_weight(saliency):
    weight = torch.randn(2, 3)
    after = moved(saliency, [MOVE])
    assert type(after) is type(saliency)
    torch.testing.assert_close(after(MOVE(weight)), MOVE(saliency(weight)))
    torch.testing.assert_close(moved(after, [MOVE.inverse()])(weight), saliency(weight))


def test_names_and_functions_stay_and_scores_move():
    assert moved("magnitude", [MOVE]) == "magnitude"
    assert moved(torch.abs, [MOVE]) is torch.abs
    scores = torch.arange(6.0).reshape(2, 3)
    assert moved(scores, [MOVE]).tolist() == [[2, 0, 1], [5, 3, 4]]
    with pytest.raises(ValueError, match=r"scores of 'weight' have shape \(3, 2\), the weight \(2, 3\)"):
        moved(scores.T, [MOVE])


def test_one_saliency_for_every_layer_moves_by_layer():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(9, 8)
    layers = list(sl.core.layers.layer_weights(model))
    plan = sl.permute(model, x, strategy="channel_swap").plan
    wanda = Wanda(torch.arange(8.0))
    after = Choice(calculator("2:4"), wanda).moved(layers, plan).saliency
    assert after["0.weight"].norms.flatten().tolist() == list(range(8))
    assert sorted(after["2.weight"].norms.flatten().tolist()) == list(range(8))
    assert after["2.weight"].norms.flatten().tolist() != list(range(8))
    for stays in ("magnitude", torch.abs):
        assert Choice(calculator("2:4"), stays).moved(layers, plan).saliency is stays
