"""Statistics of batch norms, re-estimated: against the mean and variance of each batch, computed in the test."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparselab as sl


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.01), nn.Dropout(0.5), nn.ReLU())
    model[1].running_mean.fill_(7)
    return model


BATCHES = [torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(size)) for size in (4, 6, 4)]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("batches", [None, 2])
def test_against_the_definition(labelled, batches):
    model = network()
    loader = [(batch, torch.zeros(len(batch))) for batch in BATCHES] if labelled else BATCHES
    sl.recalibrate_batchnorm(model, loader, batches)
    outputs = [model[0](batch).detach().double().transpose(0, 1).flatten(1) for batch in BATCHES[:batches]]
    mean = torch.stack([values.mean(1) for values in outputs]).mean(0)
    variance = torch.stack([values.var(1) for values in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), variance, rtol=1e-5, atol=1e-6)
    assert model[1].momentum == 0.01


def test_batches_that_are_keyword_arguments():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, *, pictures):
            return self.inner(pictures)

    model, plain = Keyword(), network()
    sl.recalibrate_batchnorm(model, [{"pictures": batch} for batch in BATCHES])
    sl.recalibrate_batchnorm(plain, BATCHES)
    assert torch.equal(model.inner[1].running_var, plain[1].running_var)


def test_modes_and_weights_stay_and_an_empty_loader_changes_nothing():
    model = network()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="empty"):
        sl.recalibrate_batchnorm(model, [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    sl.recalibrate_batchnorm(model, BATCHES)
    assert [module.training for module in model] == [True, False, True, True]
    assert torch.equal(model[0].weight, before["0.weight"])
    sl.recalibrate_batchnorm(nn.Linear(2, 2), [])  # nothing to do


def test_norms_that_no_batch_reaches_and_failures_leave_statistics_as_they_were():
    class WithHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.auxiliary = network(), nn.BatchNorm2d(8)

        def forward(self, x):
            if len(x) == 6:
                raise RuntimeError("half-way")
            return self.auxiliary(self.body(x)) if self.training else self.body(x)

    model = WithHead()
    model.auxiliary.running_mean.fill_(5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="half-way"):
        sl.recalibrate_batchnorm(model, BATCHES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.body[1].momentum == 0.01
    sl.recalibrate_batchnorm(model, BATCHES[:1])
    assert not torch.equal(model.body[1].running_mean, before["body.1.running_mean"])
    assert torch.equal(model.auxiliary.running_mean, before["auxiliary.running_mean"])
