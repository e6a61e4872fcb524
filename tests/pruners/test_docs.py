"""The example of docs/pruners.md runs, and its table names every pruner."""

import re
from pathlib import Path

import torch
from torch import nn

import sparselab as sl
from sparselab.masks import calculator
from sparselab.pruners import PRUNERS, get_pruner
from sparselab.statistics import SecondMoments, collect, reconstruction_error

PAGE = (Path(__file__).parents[2] / "docs" / "pruners.md").read_text(encoding="utf-8")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 8)

    def forward(self, x):
        return self.fc(x)


def test_the_example():
    torch.manual_seed(0)
    space = {"model": Model(), "batches": [torch.randn(50, 16)], "sl": sl}
    space |= {each.__name__: each for each in (SecondMoments, calculator, collect, get_pruner, reconstruction_error)}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], space)
    space["sparsifier"].compute()
    assert torch.equal(space["model"].fc.weight, space["found"].weight)


def test_every_pruner_is_in_the_table():
    for name in PRUNERS.names():
        assert name == "by_saliency" or f"| `{name}` |" in PAGE, name
