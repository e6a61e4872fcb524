"""Example inputs that are a loader give their first batch; those that do not fit are said to."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparselab as sl
from tests.training.helpers import mlp

X, Y = torch.randn(8, 32, generator=torch.Generator().manual_seed(5)), torch.arange(8)


def said(caplog) -> list[str]:
    """What sparselab has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "sparselab"]


class Own:
    """A loader of somebody's own."""

    dataset = TensorDataset(X)

    def __iter__(self):
        yield {"input": X[:4]}


LOADERS = {
    "inputs and labels": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "inputs": lambda: DataLoader(X, batch_size=4),
    "of its own": Own,
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_loader_is_its_first_batch(loader, caplog):
    model, plain = mlp(), mlp()
    report = sl.permute(model, loader(), strategy="channel_swap,0")
    expected = sl.permute(plain, X[:4], strategy="channel_swap,0")
    assert report.share_permuted == expected.share_permuted > 0
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert len(said(caplog)) == 1


def test_what_is_said_and_what_random_generators_hear(caplog):
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, generator=own)
    model = mlp()
    states = torch.get_rng_state(), own.get_state()
    sl.permute(model, loader, strategy="identity")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(own.get_state(), states[1])
    assert said(caplog) == ["example_inputs is a loader (DataLoader): the first entry of its first batch is used"]


def test_a_loader_without_a_batch():
    with pytest.raises(ValueError, match="a loader without a batch: pass one batch of what model"):
        sl.permute(mlp(), DataLoader(X[:0]))


class TestInFrames:
    """``frame()`` of a Sparsifier says what became of every weight's input channels."""

    def permuted(self, model: nn.Module, **options) -> dict[str, str]:
        sparsifier = sl.Sparsifier(model, **{"pattern": "2:4", **options})
        assert set(sparsifier.frame["permutation"]) == {""}
        sparsifier.compute()
        return sparsifier.frame.set_index("layer")["permutation"].to_dict()

    def test_a_loader(self, caplog):
        loader = DataLoader(TensorDataset(X, Y), batch_size=4)
        found = self.permuted(mlp(), example_inputs=loader, permutation="channel_swap,0")
        assert found == {"0.weight": "pinned: the model's input args_0", "2.weight": "permuted"}
        assert len(said(caplog)) == 1

    @pytest.mark.parametrize("wrong", [torch.randn(2, 5), "a string", TensorDataset(X)])
    def test_inputs_that_do_not_fit_are_said_once(self, wrong, caplog):
        found = self.permuted(mlp(), example_inputs=wrong)
        assert all(why.startswith("pinned: torch.export stopped at ") for why in found.values())
        (message,) = said(caplog)
        assert message.startswith("channels are not permuted, since the model could not be traced on the example_in")
        assert message.endswith(
            "Pass what model(...) takes: a tensor, a tuple of positional or a dict of keyword arguments"
        )

    def test_why_none_was_searched(self, caplog):
        found = {
            why
            for options in (
                {},
                {"example_inputs": X, "permutation": None},
                {"example_inputs": X, "pattern": "unstructured,0.5"},
                {"example_inputs": X, "pattern": lambda weight: weight > 0},
            )
            for why in self.permuted(mlp(), **options).values()
        }
        assert found == {
            "no example_inputs to trace the model with",
            "permutation=None",
            "no order is searched for masks by unstructured,0.5",
            "no order is searched for masks by a function",
        }
        assert not said(caplog)
