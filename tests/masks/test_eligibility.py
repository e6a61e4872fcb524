import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import sparselab as sl
from sparselab.core.layers import Names, layer_weights
from sparselab.masks.eligibility import why_not


@pytest.mark.parametrize(
    ("module", "pattern", "rule", "reason"),
    [
        (nn.Linear(8, 4), "2:4", "divisible", None),
        (nn.Linear(10, 4), "2:4", "divisible", "10 input channels are not a multiple of 4"),
        (nn.Linear(10, 4), "unstructured,0.5", "divisible", None),
        (nn.Linear(1, 4), "unstructured,0.5", "divisible", None),
        (nn.Linear(3, 4), "row,0.25", "divisible", "a row of 3 at a density of 0.25 keeps nothing"),
        (nn.Linear(3, 4), "row,0.5", "divisible", None),
        (nn.Linear(3, 4), "row,0", "divisible", None),
        (
            nn.Conv2d(8, 8, 3, groups=8),
            "row,0.5",
            "divisible",
            "depthwise: a row of 1 at a density of 0.5 keeps nothing",
        ),
        (nn.Linear(8, 6), "4:2:8", "divisible", "6 outputs are not a multiple of 4, as V:N:M needs"),
        (nn.Linear(8, 6), "m4n2_2d_best", "divisible", "6 outputs are not a multiple of 4, as a 2d mask needs"),
        (nn.Conv2d(8, 8, 3, groups=8), "2:4", "divisible", "depthwise: 1 input channel, nothing to choose from"),
        (nn.Conv2d(8, 8, 3, groups=8), "1:1", "divisible", "depthwise: 1 input channel, nothing to choose from"),
        (nn.Conv2d(8, 8, 3, groups=4), "2:4", "divisible", "2 input channels are not a multiple of 4"),
        (nn.ConvTranspose2d(8, 8, 3, groups=4), "2:4", "divisible", "2 input channels are not a multiple of 4"),
        (nn.ConvTranspose2d(8, 6, 3), "2:4", "divisible", None),
        (nn.Embedding(8, 8), "2:4", "divisible", "not the weight of a Linear, convolution or attention layer"),
        (nn.LazyLinear(8), "2:4", "divisible", "not initialised yet: run one forward pass first"),
        (nn.Linear(8, 8), "2:4", "asp", "size(1) = 8 is not a multiple of 16"),
        (nn.Linear(16, 4), "2:4", "asp", "size(0) = 4 is not a multiple of 8"),
        (nn.Linear(16, 8).bfloat16(), "2:4", "asp", "dtype torch.bfloat16 is neither float32 nor float16"),
        (nn.Linear(16, 8).requires_grad_(False), "2:4", "asp", "frozen: it does not require a gradient"),
        (nn.Linear(16, 8).half(), "2:4", "asp", None),
        (nn.Linear(16, 8), "8:32", "asp", "16 input channels are not a multiple of 32"),
    ],
)
def test_reasons(module, pattern, rule, reason):
    assert why_not(module, "weight", pattern, rule) == reason


def test_parametrised_weights():
    assert "parametrisation" in why_not(parametrizations.weight_norm(nn.Linear(8, 8)), "weight")


def test_absent_and_unknown():
    attention = nn.MultiheadAttention(8, 2)
    assert why_not(attention, "q_proj_weight") == "this layer has no such weight"
    assert why_not(attention, "in_proj_weight") is None
    with pytest.raises(ValueError, match="unknown eligibility rule 'apex'; valid: asp, divisible"):
        why_not(attention, "in_proj_weight", rule="apex")


def test_every_weight_once_in_the_order_of_the_modules():
    embedding, head = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)
    head.weight = embedding.weight
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict(
        {"e": embedding, "a": shared, "b": shared, "m": nn.MultiheadAttention(8, 2, kdim=4, vdim=4), "head": head}
    )
    names = [layer.name for layer in layer_weights(model)]
    separate = [f"m.{letter}_proj_weight" for letter in "qkv"]
    assert names == ["a.weight", *separate, "m.out_proj.weight", "head.weight"]
    assert all(isinstance(layer.weight, torch.Tensor) for layer in layer_weights(model))


def test_names_of_layers():
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(8, 16), "head": torch.nn.Linear(16, 8)})
    layers = list(layer_weights(model))

    def chosen(include=None, exclude=None):
        names = Names.of(include, exclude)
        names.check(model, layers)
        return [layer.name for layer in layers if names.why_not(layer) is None]

    assert chosen() == ["body.weight", "head.weight"]
    assert chosen(include="body") == chosen(["bo*"]) == chosen(exclude="head.weight") == ["body.weight"]
    assert chosen(include="*", exclude=iter(["body", "head"])) == []
    for option, name in (("include", "boddy"), ("exclude", "tail*")):
        with pytest.raises(ValueError, match=f"{option} names '{re.escape(name)}', which matches no weight"):
            chosen(**{option: name})
    for use in (
        lambda: sl.permute(model, torch.rand(2, 8), exclude=["tail"]),
        lambda: sl.Sparsifier(model, exclude="tail"),
    ):
        with pytest.raises(ValueError, match="exclude names 'tail'"):
            use()
