"""Every call that may take long shows a bar, and none when it is told so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core import progress
from sparselab.statistics import collect

CALLS = {
    "collecting": lambda model, **told: collect(model, [torch.randn(2, 8)], **told),
    "collecting, by saliency": lambda model, **told: sl.saliency.collect_activations(
        model, [torch.randn(2, 8)], **told
    ),
    "reading weights": lambda model, **told: sl.magnitude_report(model, **told),
    "checking": lambda model, **told: sl.check(model, **told),
    "masks": lambda model, **told: sl.Sparsifier(model, **told).compute(),
}


@pytest.mark.parametrize("name", CALLS)
def test_bars_are_shown_late_or_not_at_all(name, capsys, monkeypatch):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    CALLS[name](model)
    assert capsys.readouterr().err == ""  # done before anybody reads
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0.0)
    CALLS[name](nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), progress=False)
    assert capsys.readouterr().err == ""
    CALLS[name](nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    assert name.partition(",")[0] in capsys.readouterr().err
