"""The accuracy table: rows are kept as they finish, missing data are a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparselab.reproduce import Settings, finetune
from sparselab.tasks import Recipe, Task, task


def quadrants() -> Task:
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long())
    return Task(
        "quadrants",
        lambda: nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8)),
        data,
        data,
        loss=task.classification_loss,
        example_inputs=torch.zeros(2, 16),
        recipe=Recipe("adamw,0.01", epochs=5, batch_size=50),
    )


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr("sparselab.tasks.baseline.cache_dir", lambda: tmp_path)


@pytest.mark.usefixtures("_elsewhere")
def test_finished_trials_are_not_done_again(monkeypatch):
    comparison = finetune.Comparison("quadrants", 1, steps=4)
    rows = list(finetune.finished_trials(quadrants(), comparison))
    assert len(rows) == len(comparison.cases())
    by_case = {(row["pattern"], row["channels"]): row for row in rows if row["seed"] == 0}
    assert by_case["dense", "as trained"]["retained_percent"] == 100
    assert by_case["2:4", "permuted"]["retained_percent"] > by_case["2:4", "as trained"]["retained_percent"]
    assert by_case["1:4", "as trained"]["retained_percent"] < by_case["2:4", "as trained"]["retained_percent"]
    assert all(0 <= row["finetuned_top1"] <= 100 for row in rows)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(finetune, "trial", never)
    assert list(finetune.finished_trials(quadrants(), comparison)) == rows


@pytest.mark.usefixtures("_elsewhere")
def test_missing_data_are_a_sentence(monkeypatch):
    def get(name: str) -> Task:
        if name == "absent":
            raise FileNotFoundError("looked in /nowhere")
        return quadrants()

    monkeypatch.setattr(finetune, "get_task", get)
    comparisons = (finetune.Comparison("quadrants", 1, steps=2, patterns=()), finetune.Comparison("absent", 1))
    monkeypatch.setattr(finetune, "QUICK", comparisons)
    section = finetune.run(Settings(progress=False))
    assert "**absent** was skipped: looked in /nowhere." in section.text
    assert list(section.tables) == ["finetune_quadrants"]
    assert len(section.tables["finetune_quadrants"]) == 1
