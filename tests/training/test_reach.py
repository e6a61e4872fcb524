"""Chosen outputs, several examples and unreached parameters: everything that permutes hands them on."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.command_line.main import main
from sparselab.network import searching
from sparselab.permutation.strategy import STRATEGIES

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Returns the hidden state too, and has a second way in that only ``other`` takes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.mid, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 8)
        self.side = nn.Linear(8, 32)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        h = self.inp(x) if other is None else self.inp(x) + self.side(other)
        h = self.mid(h.relu())
        return {"logits": self.head(h), "hidden": h}


BOTH = [{"x": X}, {"x": X, "other": X}]
RIGHT = {"example_inputs": BOTH, "outputs": "logits"}


def by_sparsifier(model: nn.Module, **options):
    sparsifier = sl.Sparsifier(model, permutation="random,20", **options)
    sparsifier.compute()
    return sparsifier.permutation_report


def by_asp(model: nn.Module, **options):
    try:
        sl.ASP.init_model_for_pruning(model, permutation="random,20", **options)
        sl.ASP.compute_sparse_masks()
        return sl.ASP._current().permutation_report
    finally:
        sl.ASP.reset()


def by_asp_in_one_call(model: nn.Module, **options):
    few = STRATEGIES.resolve("random,20")  # it takes no strategy
    quick = mock.patch.multiple(searching, _SMALL=few, _LARGE=few)
    try:
        with quick:
            sl.ASP.prune_trained_model(model, torch.optim.SGD(model.parameters(), 0.1), **options)
        return sl.ASP._current().permutation_report
    finally:
        sl.ASP.reset()


def by_prune(model: nn.Module, **options):
    batches = [{"x": X}]
    return sl.prune(
        model, batches, pruner="magnitude", blocks=None, permutation="random,20", progress=False, **options
    ).permutation


WAYS = [by_sparsifier, by_asp, by_asp_in_one_call, by_prune]


@pytest.mark.filterwarnings("ignore:channels are not permuted")
@pytest.mark.parametrize("way", WAYS)
def test_they_are_handed_on(way) -> None:
    report = way(Net(), **RIGHT)
    statuses = report.weights.set_index("weight")["status"]
    assert statuses["head.weight"] == statuses["mid.weight"] == "permuted"
    assert report.differing == ("hidden",)
    assert report.unreached == ()
    refused = way(Net(), example_inputs={"x": X})
    assert refused.unreached == ("side.weight", "side.bias")
    assert refused.share_permuted == 0
    assert way(Net(), example_inputs={"x": X}, unreached="keep").share_permuted > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"outputs": 1.5}, "outputs takes names"), ({"unreached": "drop"}, "unreached is 'refuse' or 'keep', got 'drop'")],
)
def test_what_is_wrong_is_refused_before_anything_changes(way, wrong, message: str) -> None:
    model, plain = Net(), Net()
    with pytest.raises(ValueError, match=message):
        way(model, example_inputs=BOTH, **wrong)
    assert not list(model.buffers())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_asp_says_why_channels_are_not_permuted() -> None:
    with pytest.warns(UserWarning, match="not permuted: 2 parameters are used by no example"):
        by_asp(Net(), example_inputs=(X,))


def test_from_a_shell(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        "sparselab.command_line.models.function_of", lambda spec, *_: {"n:m": Net, "n:b": lambda: BOTH}[spec]
    )
    words = ["permute", "n:m", "--data", "n:b", "--strategy", "random,20", "--out", str(tmp_path / "out.pt")]
    assert main(words) == 1
    assert "Nothing was permuted. 2 parameters are used by no example" in capsys.readouterr().out
    assert main([*words, "--examples", "2", "--output", "logits"]) == 0
    assert "In another order than before: hidden" in capsys.readouterr().out
    assert main([*words, "--unreached", "keep", "--output", "0"]) == 0
    assert "used by no example: 'side.weight', 'side.bias'" in capsys.readouterr().out
    assert main([*words, "--examples", "0"]) == 2
    assert main([*words, "--examples", "2", "--output", "loss"]) == 2
    assert "outputs='loss': no tensor is called so" in capsys.readouterr().err
