"""The part on MiniLM, on networks that take no time: what agrees, what differs, what the table says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sparselab as sl
from sparselab.reproduce import Settings, transformers
from sparselab.reproduce.transformers import Comparison, accuracy_table, agreement
from sparselab.tasks import Task


def corners() -> Task:
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    return Task("corners", nn.Identity, TensorDataset(x, x.argmax(1)), TensorDataset(x, x.argmax(1)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))


def test_a_permuted_network_agrees_and_another_does_not() -> None:
    task, model = corners(), network()
    permuted = copy.deepcopy(model)
    assert len(sl.permute(permuted, torch.randn(2, 8)).plan)
    same = agreement(task, model, permuted, batch_size=7)
    x, labels = task.eval_data[torch.arange(60)]
    with torch.no_grad():
        logits = model(x)
        assert same.top1 == pytest.approx((100 * float((logits.argmax(1) == labels).double().mean()),) * 2)
        assert same.largest == pytest.approx(float(logits.abs().max()), rel=1e-6)
        assert same.predictions == 0
        assert 0 < same.difference < 1e-6
        model[2].bias[3] += 100
        other = agreement(task, permuted, model)
        assert other.predictions == int((logits.argmax(1) != 3).sum())
        assert other.difference == pytest.approx(100, rel=1e-4)
        assert other.top1[1] == pytest.approx(100 * float((labels == 3).double().mean()))


def test_a_row_for_every_way_to_prune_and_one_dense(tmp_path, monkeypatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("SPARSELAB_CACHE", str(tmp_path))
    comparison = Comparison("digits,epochs=0.2", steps=1, patterns=("2:4",), saliencies=("magnitude", "ria"))
    frame = comparison.frame(Settings(progress=False))
    assert frame["error"].dropna().tolist() == []
    lines = accuracy_table(frame).splitlines()[-5:]
    assert [line.split("|")[1:4] for line in lines] == [
        [" dense ", " magnitude ", " as trained "],
        [" 2:4 ", " magnitude ", " as trained "],
        [" 2:4 ", " magnitude ", " permuted "],
        [" 2:4 ", " ria ", " as trained "],
        [" 2:4 ", " ria ", " permuted "],
    ]
    assert " 100.0 |" in lines[0]


def test_the_short_form_and_missing_data_say_so(tmp_path, monkeypatch) -> None:
    assert "--full" in transformers.run(Settings(progress=False)).text
    monkeypatch.setenv("SPARSELAB_DATA", str(tmp_path))
    text = transformers.run(Settings(full=True, progress=False)).text
    assert "was skipped" in text
    assert str(tmp_path) in text
