"""Weights that are first changed toward what they gave in the dense model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.layers import layer_weights
from sparselab.masks import calculator
from sparselab.pruners import get_pruner
from sparselab.pruners.reconstruction import corrected
from sparselab.statistics import SecondMoments, collect, cross_moments
from sparselab.statistics.layers import weight_uses

from . import models
from .test_prune import in_order_of_calls


def test_it_is_ridge_regression_toward_the_old_weight():
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(50, 8, generator=generator).double() for _ in range(2))
    y, weight = x * torch.linspace(0.5, 2, 8) + 0.5 * noise, torch.randn(3, 8, generator=generator).double()
    moments = SecondMoments((y.T @ y)[None], (50,), (3, 8))
    for share, damping in ((1.0, 0.3), (0.4, 0.1)):
        found = corrected(weight, moments, (x.T @ y)[None], share=share, damping=damping)
        wanted = share * x @ weight.T + (1 - share) * y @ weight.T
        pull = torch.diag((damping * (y * y).sum(0)).sqrt())
        rows, targets = torch.cat([y, pull]), torch.cat([wanted, pull @ weight.T])
        expected = np.linalg.lstsq(rows.numpy(), targets.numpy(), rcond=None)[0].T
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    same = corrected(weight.half(), moments, moments.sums)
    assert torch.equal(same, weight.half())


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(6, 4), torch.randn(2, 5, 6)),
        (nn.Conv2d(4, 6, 3, groups=2, padding=1), torch.randn(2, 4, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 2, groups=2), torch.randn(2, 4, 5)),
    ],
)
def test_of_the_same_call_they_are_second_moments(layer, inputs):
    use = next(weight_uses(layer))
    mask = torch.tensor([True, False])
    given = use.given((inputs,), {}, mask)
    moments = collect(layer, [inputs[:1]], [SecondMoments])[SecondMoments]["weight"]
    torch.testing.assert_close(cross_moments(given, given).expand_as(moments.sums), moments.sums)


def inputs_of(model, batch, name):
    """What the layer of the weight ``name`` is given, ``(positions, channels)``, where the batch counts."""
    seen = []
    module = model.get_submodule(name.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return seen[0][batch["attention_mask"].bool()].double()


@pytest.mark.parametrize("pruner", ["alps", "wanda", "magnitude"])
def test_as_the_whole_model_run_for_every_weight(pruner):
    model, batches = models.llama(), models.tokens(padded=True)
    dense, naive = copy.deepcopy(model), copy.deepcopy(model)
    report = sl.prune(model, batches, pruner=pruner, correction=0.7, progress=False)
    names = list(report.frame.loc[report.frame["eligible"], "layer"])
    order, method = in_order_of_calls(naive, batches[0], names), get_pruner(pruner)
    layers = {layer.name: layer for layer in layer_weights(naive)}
    for name in order:
        x, y = (torch.cat([inputs_of(each, batch, name) for batch in batches]) for each in (dense, naive))
        moments = SecondMoments((y.T @ y)[None], (len(y),), tuple(layers[name].weight.shape))
        statistic = moments if method.needs is SecondMoments else moments.norms()
        wanted = corrected(layers[name].weight.double(), moments, (x.T @ y)[None], share=0.7).float()
        found = method(wanted, calculator("2:4"), None if method.needs is None else statistic)
        layers[name].weight.data.copy_(found.weight)
    for name in names:
        now, expected = model.get_parameter(name), naive.get_parameter(name)
        alike = float(((now != 0) == (expected != 0)).double().mean())
        assert alike > 0.99, (name, alike)  # a near tie may fall the other way
        if alike == 1:
            torch.testing.assert_close(now, expected, atol=5e-4, rtol=1e-3)


def test_outputs_stay_nearer_to_the_dense_ones():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(6)))
    x = torch.randn(2000, 32) @ torch.randn(32, 32)
    model.requires_grad_(False)
    outputs = model(x[1000:])
    errors = {}
    for correction in (0.0, 0.5, 1.0):
        pruned = copy.deepcopy(model)
        sl.prune(pruned, x[:1000].split(100), correction=correction, progress=False)
        errors[correction] = float((pruned(x[1000:]) - outputs).square().sum())
    assert errors[1.0] < errors[0.5] < errors[0.0]
    assert errors[1.0] < 0.95 * errors[0.0]


def test_it_goes_on_after_an_interruption(tmp_path):
    batches = models.tokens()
    torch.manual_seed(0)
    model = models.llama()
    whole, again = copy.deepcopy(model), copy.deepcopy(model)
    sl.prune(whole, batches, pruner="alps", correction=1.0, progress=False)
    sl.prune(copy.deepcopy(model), batches, pruner="alps", correction=1.0, progress=False, store=tmp_path / "run")
    for file in sorted((tmp_path / "run").iterdir()):
        if "1" in file.stem:
            file.unlink()
    report = sl.prune(again, batches, pruner="alps", correction=1.0, progress=False, store=tmp_path / "run")
    assert report.protocol["correction"] == 1.0
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters()))


@pytest.mark.parametrize("options", [{"correction": 1.5}, {"correction": -1}, {"correction": 1, "sequential": False}])
def test_what_makes_no_sense_is_said(options):
    with pytest.raises(ValueError, match=r"correction=.* must lie between 0 and 1, and needs"):
        sl.prune(nn.Sequential(nn.Linear(8, 8)), [torch.randn(4, 8)], progress=False, **options)
