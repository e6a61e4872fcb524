"""The examples of docs/extend.md run, one after the other as they stand, and what they add passes the contracts."""

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sparselab
import sparselab as sl
from sparselab.masks import CALCULATORS, MaskCalculator, create_mask
from sparselab.metrics import CrossEntropy, Mean, measure
from sparselab.permutation import STRATEGIES
from sparselab.pruners import PRUNERS, Pruned
from sparselab.saliency import SALIENCIES
from sparselab.tasks import TASKS, Task
from sparselab.testing import (
    MaskCalculatorContract,
    MetricContract,
    PrunerContract,
    SaliencyContract,
    ScheduleContract,
    ScheduledRun,
    TaskContract,
)
from sparselab.training.schedules import SCHEDULES, Schedule

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
REGISTRIES = (CALCULATORS, SALIENCIES, PRUNERS, STRATEGIES, SCHEDULES, TASKS)


@pytest.fixture(scope="module")
def page():
    """The namespace in which every example of the page has run; the registries forget them afterwards."""
    before = [dict(registry._entries) for registry in REGISTRIES]
    known = (dataclass, replace, pytest, torch, nn, TensorDataset, sparselab, MaskCalculator, create_mask, Mean)
    known += (CrossEntropy, Pruned, Task, Schedule, MaskCalculatorContract)
    space = {one.__name__.rpartition(".")[2]: one for one in known}
    names = ("CALCULATORS", "SALIENCIES", "PRUNERS", "STRATEGIES", "SCHEDULES", "TASKS")
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(8, 16), torch.randint(4, (8,)))
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    space |= {
        **dict(zip(names, REGISTRIES)),
        "sl": sl,
        "weight": torch.randn(16, 16),
        "model": model,
        "other_model": copy.deepcopy(model),
        "task": Task("mine", lambda: nn.Linear(16, 4), data, data),
    }
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/extend.md", "exec", dont_inherit=True), space)
    yield space
    for registry, entries in zip(REGISTRIES, before):
        registry._entries = entries


def test_the_examples_did_what_they_say(page):
    assert page["mask"].double().mean() == 0.5
    assert page["report"]["total"][0] == pytest.approx(
        float(page["model"][0].weight.detach().double().square().sum()), rel=1e-5
    )
    assert page["task"].headline.name == "confidence"
    assert page["result"].strategy == "reversed"
    assert set(page["metrics"]) == {"top1", "loss"}
    assert page["sparsifier"].schedule.again == 50


def test_every_registry_and_contract_is_named():
    for registry in REGISTRIES:
        assert f"`{registry.group}`" in PAGE
    assert all(f"`{name}`" in PAGE for name in sparselab.testing.__all__ if name.endswith("Contract"))


def test_the_files_that_it_takes_are_there_and_at_most_three():
    rows = re.findall(r"^\| (an? .*?) \| (`.*`) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 9
    for _, files in rows:
        named = re.findall(r"`(.*?)`", files)
        assert len(named) <= 3
        for name in named:
            path = ROOT / name if name.startswith("tests/") else ROOT / "sparselab" / name
            assert path.parent.is_dir() if path.name == "mine.py" else path.is_file(), name


class TestButterfly(MaskCalculatorContract):
    @pytest.fixture(params=["butterfly,4", "butterfly,8"])
    def calculator(self, page, request):
        return sparselab.masks.calculator(request.param)

    # Its masks ignore the scores, so it has no opinion on what is not finite.
    test_refuses_what_is_not_finite = None
    test_skipping_short_groups = None


class TestSquared(SaliencyContract):
    @pytest.fixture
    def saliency(self, page):
        return "squared"


class TestRescaled(PrunerContract):
    @pytest.fixture
    def pruner(self, page):
        return PRUNERS.resolve("rescaled,0.1")


class TestConfidence(MetricContract):
    @pytest.fixture
    def metric(self, page):
        return page["Confidence"]()

    # A class that was made by exec cannot be pickled.
    test_it_travels_and_is_known_again = None


class TestTwice(ScheduleContract):
    @pytest.fixture
    def run(self, page):
        return ScheduledRun("twice,2", 0)


class TestBlobs(TaskContract):
    @pytest.fixture
    def source(self, page):
        return "blobs"

    test_it_can_be_trained_sparse = None  # it has one layer


def test_a_metric_alone_is_measured(page):
    data = torch.randn(6, 16), torch.randint(4, (6,))
    model = nn.Linear(16, 4)
    found = measure([page["Confidence"]()], model, [(data, 6)])
    expected = model(data[0]).softmax(1)[torch.arange(6), data[1]].mean()
    assert found["confidence"] == pytest.approx(float(expected.detach()))
