"""A JupyterLab of our own, and Chromium looking at it: as a reader of the notebooks has it, offline."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from lab_page import LabPage, browsing, installed_browser
from servers import ROOT, UNLOCKED, serving, write_notebook

TRAINING = """
import torch

import sparselab as sl

torch.set_num_threads(1)
sl.widgets.MaskRecomputation("digits", schedules=["one_shot", "recompute,every=5"], steps=40)
"""

PICTURES = """
import torch
from torch import nn

import sparselab as sl

torch.manual_seed(0)
sl.widgets.MagnitudeLoss(nn.Sequential(*(nn.Linear(64, 64) for _ in range(33))))
"""

COMPARISON = """
import torch
from torch import nn

import sparselab as sl

torch.manual_seed(0)
model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(30)))
sl.widgets.PrunerComparison(model, [torch.randn(64, 32)], layer="0.weight", pruners=["magnitude", "wanda", "sparsegpt"])
"""

FORECAST = """
import torch
from torch import nn

import sparselab as sl

model = nn.Sequential(nn.Linear(4096, 16384), nn.ReLU(), nn.Linear(16384, 4096), nn.Linear(4096, 10))
sl.widgets.SpeedForecast(model, torch.empty(1, 4096))
"""

SWEEP = """
import sparselab as sl
from sparselab.sweeps import experiment


def trial(given):
    return {"top1": 90.0 + given.seed + 5 * (given.pattern == "2:4"), "loss": 1 / (given.seed + 1)}


def sweep(*seeds):
    options = {"store": "sweep.db", "version": 1, "progress": False}
    return experiment(trial, pattern=["2:4", "1:4"], rate=[0.1, 0.2], seed=list(seeds), **options)


sweep(0, 1, 2)
sl.widgets.SweepExplorer("sweep.db", x="rate", colour="pattern")
"""
RUN_SWEEP = "len(sweep(3, 4))"


# Not a session's: Playwright keeps an event loop running in this thread for as long as it is open.
@pytest.fixture(scope="module")
def chromium():
    pytest.importorskip("playwright.sync_api", reason="needs the extra 'dev'")
    if installed_browser() is None:
        pytest.skip("no browser: neither Chromium nor Chrome is installed")
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks, set up as ``make lab`` does."""
    pytest.importorskip("jupyterlab", reason="needs the extra 'lab'")
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    write_notebook(home / "notebooks" / "training.ipynb", TRAINING)
    write_notebook(home / "notebooks" / "comparison.ipynb", COMPARISON)
    write_notebook(home / "notebooks" / "forecast.ipynb", FORECAST)
    write_notebook(home / "notebooks" / "pictures.ipynb", PICTURES)
    write_notebook(home / "notebooks" / "sweep.ipynb", SWEEP, RUN_SWEEP)
    with serving(home, "jupyter", "lab", *UNLOCKED) as address:
        yield address


@pytest.fixture
def lab(chromium, jupyter):
    """Opens windows: ``lab(width=900, theme="dark").open("02_mask_calculators.ipynb")``."""
    windows = []

    def window(**options):
        windows.append(LabPage(chromium, jupyter, **options))
        return windows[-1]

    yield window
    for page in windows:
        page.close()
