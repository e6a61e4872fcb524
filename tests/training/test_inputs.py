"""Example inputs that ASP's callers did not give: seen, guessed, or one warning. A wrong guess costs nothing."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselab import ASP
from sparselab.training.inputs import infer_inputs

from .helpers import mlp, network


@pytest.fixture(autouse=True)
def _fresh():
    yield
    ASP.reset()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.first, self.last = nn.Embedding(50, 16), nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, ids):
        return self.last(F.relu(self.first(self.embed(ids)))).mean(1)


class Sequence3d(nn.Module):
    """Takes (batch, tokens, features) only."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x):
        batch, tokens, _ = x.shape
        return self.last(F.relu(self.first(x))).reshape(batch, tokens * 8)


GUESSED = {
    "any size": network,
    "28 x 28": lambda: nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16 * 24 * 24, 8)
    ),
    "32 x 32": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16 * 28 * 28, 8)
    ),
    "mlp": mlp,
    "tokens": Tokens,
    "sequence": Sequence3d,
}


@pytest.mark.parametrize("name", GUESSED)
def test_the_two_lines_permute_an_ordinary_network_with_no_further_help(name):
    torch.manual_seed(0)
    model = GUESSED[name]()
    modes = [module.training for module in model.modules()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ASP.prune_trained_model(model, optimizer)
    assert "permuted" in set(ASP._sparsifier.permutation_report.frame["status"])
    assert [module.training for module in model.modules()] == modes
    assert ASP.is_sparsity_enabled()


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x, scale):
        return self.last(F.relu(self.first(x)) * scale)


def test_when_no_guess_fits_one_warning_says_what_to_pass():
    model = TwoInputs()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.warns(UserWarning, match="example_inputs") as caught:
        ASP.prune_trained_model(model, optimizer)
    assert len(caught) == 1
    assert ASP.is_sparsity_enabled()
    ASP.reset()
    model = TwoInputs()
    inputs = {"x": torch.randn(4, 16), "scale": torch.tensor(2.0)}
    ASP.prune_trained_model(model, torch.optim.SGD(model.parameters(), 0.1), example_inputs=inputs)
    assert "permuted" in set(ASP._sparsifier.permutation_report.frame["status"])


def test_a_hugging_face_model_brings_its_own_inputs():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ASP.prune_trained_model(model, optimizer)
    statuses = ASP._sparsifier.permutation_report.weights.set_index("weight")["status"]
    assert statuses["encoder.layer.0.output.dense.weight"] == "permuted"
    assert ASP.is_sparsity_enabled()


class Remembers(nn.Module):
    """Takes 28 x 28 pictures only, and keeps something of every forward pass in every way there is."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
        self.last = nn.Linear(16 * 24 * 24, 8)
        self.calls, self.seen, self.scale = 0, [], None
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.shape)
        if self.scale is None:
            self.scale = torch.full_like(x, 2.0)
        self.total += x.sum()
        return self.last(self.second(F.relu(self.first(x * self.scale))).flatten(1))


def test_wrong_guesses_leave_no_trace_and_say_nothing(capfd):
    torch.manual_seed(0)
    model, records = Remembers(), []
    model.lock = threading.Lock()  # a model need not be one that can be copied
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("torch._subclasses.fake_tensor")  # where torch reports them, at length
    logger.addHandler(handler)
    state = torch.get_rng_state()
    try:
        (found,) = infer_inputs(model)
    finally:
        logger.removeHandler(handler)
    assert found.shape == (1, 1, 28, 28)
    assert (model.calls, model.seen, model.scale, model.total.item()) == (0, [], None, 0)
    assert capfd.readouterr() == ("", "")
    assert records == []
    assert torch.equal(torch.get_rng_state(), state)


class Positions(nn.Module):
    """Knows no more than eight positions; on fake tensors nothing notices a ninth."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, 16), nn.Embedding(8, 16)
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.last(F.relu(self.first(x)))


class HeadFirst(nn.Module):
    """Its layers are not listed in the order in which they run."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(32, 8), network()[:5]

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory, self.first, self.last = nn.LSTM(12, 32, batch_first=True), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x):
        return self.last(F.relu(self.first(self.memory(x)[0][:, -1])))


@pytest.mark.parametrize("make", [Positions, HeadFirst, Recurrent])
def test_guesses_go_on_until_one_runs(make):
    torch.manual_seed(0)
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ASP.prune_trained_model(model, torch.optim.SGD(model.parameters(), 0.1))
    assert "permuted" in set(ASP._sparsifier.permutation_report.frame["status"])


def test_volumes_are_guessed_small():
    (found,) = infer_inputs(nn.Conv3d(3, 16, 3))
    assert found.shape == (1, 3, 32, 32, 32)


def test_lazy_layers_are_left_as_they_are():
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 8))
    assert infer_inputs(model) is None
    assert nn.parameter.is_lazy(model[0].weight)
    ASP.init_model_for_pruning(model)
    frame = ASP._sparsifier.frame.set_index("layer")
    assert "not initialised yet" in frame.loc["0.weight", "reason"]
    assert frame.loc["0.weight", "shape"] == ()


Pair = namedtuple("Pair", ["x", "scale"])


class TakesPairs(TwoInputs):
    def forward(self, pair):
        return super().forward(pair.x, pair.scale)


def test_inputs_of_any_structure_are_seen():
    torch.manual_seed(0)
    model, x = TakesPairs(), torch.randn(4, 16)
    ASP.init_model_for_pruning(model)
    model(Pair(x, torch.tensor(2.0)))
    x.zero_()  # what was seen is a copy
    seen: Tensor = ASP._watcher.seen[0].x
    assert seen.abs().sum() > 0
    ASP.compute_sparse_masks()
    assert "permuted" in set(ASP._sparsifier.permutation_report.frame["status"])
