"""The examples of docs/saliency.md and docs/statistics.md run, and those of one's own kinds do what they say."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

import sparselab as sl
from sparselab.core.moves import Move
from sparselab.statistics import InputNorms, SecondMoments, collect

DOCS = Path(__file__).parents[2] / "docs"
KNOWN = (dataclass, replace, Move, Tensor, InputNorms, SecondMoments)
NAMES = {one.__name__: one for one in KNOWN} | {"ClassVar": ClassVar, "Self": Self, "torch": torch, "sl": sl}


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.fc = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return self.fc(self.inp(x).relu())


@pytest.fixture
def run(monkeypatch):
    """A namespace in which examples run, and a registry that forgets them."""
    own = copy.deepcopy(sl.saliency.SALIENCIES)
    for module in (sl.saliency, sl.saliency.names, sl.saliency.activations):
        monkeypatch.setattr(module, "SALIENCIES", own)
    torch.manual_seed(0)
    x, weight = torch.randn(9, 8), torch.randn(8, 8)
    space = {**NAMES, "model": Model(), "x": x, "batches": [x], "weight": weight, "scores": weight.abs()}

    def execute(text: str, **more):
        space.update(more)
        exec(compile(text, "example", "exec", dont_inherit=True), space)
        return space

    return execute


def test_saliency(run):
    text, *_ = examples("saliency.md")
    space = run(text.replace("sl.Sparsifier(model", "sl.Sparsifier(copy.deepcopy(model)"), copy=copy)
    assert set(space["moved"]) == {"inp.weight", "fc.weight"}


def test_a_saliency_of_ones_own(run):
    _, alone, from_data = examples("saliency.md")
    run(alone)
    space = run(from_data)
    model, x = Model().double(), torch.randn(40, 8).double()

    def surprise():
        found = collect(model, [x], [SecondMoments], dtype=torch.float64)
        return sl.saliency.from_statistics("surprise,0.1", found)

    before = surprise()
    plan = sl.permute(model, x, saliency=before, strategy="channel_swap").plan
    assert len(plan)
    anew = surprise()
    for name, saliency in plan.moved(before).items():
        weight = model.get_parameter(name)
        assert isinstance(saliency, space["Surprise"])
        torch.testing.assert_close(saliency(weight), anew[name](weight))
    message = r"from_statistics\('surprise', sl.statistics.collect\(model, batches, \[SecondMoments\]\)\)"
    with pytest.raises(ValueError, match=message):
        sl.Sparsifier(Model(), "2:4", saliency="surprise")


def test_statistics(run):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    model = transformers.BertModel(config)
    batch = {"input_ids": torch.randint(40, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    space = run(
        examples("statistics.md")[0],
        model=model,
        batches=[batch],
        weight=model.get_parameter("encoder.layer.0.output.dense.weight"),
        update=lambda rows, sums: rows / 2,
        report=sl.permute(model, batch),
    )
    again = sl.statistics.reconstruction_error(space["weight"], space["new_weight"], space["moments"])
    assert again == pytest.approx(25, rel=1e-5)


def test_a_kind_of_ones_own(run):
    space = run(examples("statistics.md")[1])
    model, x = Model().double(), torch.randn(40, 8).double()
    kind = space["InputMeans"]
    before = collect(model, [x[:10], x[10:]], [kind])[kind]
    torch.testing.assert_close(before["inp.weight"].means, x.mean(0))
    plan = sl.permute(model, x, strategy="channel_swap").plan
    anew = collect(model, [x], [kind])[kind]
    for name, means in plan.moved(before).items():
        torch.testing.assert_close(means.means, anew[name].means)
