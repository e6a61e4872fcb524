"""The part on language models, on a decoder that takes no time: its trials, pairs and tables."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sparselab.reproduce import Settings, llm, llm_tables
from sparselab.reproduce.int8 import rounded
from sparselab.reproduce.llm import Comparison, trials, window_nats
from sparselab.tasks import evaluate, language_model_task

PROSE = " ".join(f"the {word} of {number} and its {word}s" for number, word in enumerate(["mask", "row", "block"] * 90))
COMPARISONS = (
    Comparison("tiny", ("magnitude", "wanda", "sparsegpt"), ("2:4", "unstructured,0.5"), windows=(4,), seeds=2),
    Comparison("tiny", ("magnitude", "wanda"), ("2:4", "unstructured,0.5"), ("permuted",), windows=(4,), seeds=1),
    Comparison("tiny", ("wanda", "sparsegpt"), windows=(2, 4), seeds=2),
    Comparison("tiny", ("sparsegpt",), windows=(4,), steps=(3,), seeds=1),
)


class Decoder(nn.Module):
    """Two blocks without attention; its logits at a place depend on the tokens up to it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(128, 16), nn.Linear(16, 128)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(2))

    def forward(self, input_ids):
        x = self.embed(input_ids).cumsum(1) / 3
        for block in self.blocks:
            x = x + 3 * block(x)
        return self.head(x)


def tiny():
    texts = (PROSE[:800], PROSE)
    options = {"context": 16, "windows": 4, "include": ("blocks.*",), "loss": "distil"}
    return language_model_task(Decoder().eval(), lambda text: list(text.encode()), texts, **options)


@pytest.fixture(scope="module")
def task():
    return tiny()


@pytest.fixture(scope="module")
def frame(task, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm, "loaded_task", lambda name: task)
        settings = Settings(progress=False, device="cpu", store=tmp_path_factory.mktemp("store") / "trials.sqlite")
        return trials(COMPARISONS, settings)


def test_one_row_for_each_trial_with_its_protocol(frame, task):
    counted = frame.groupby(["pattern", "pruner", "channels", "calibration", "steps"]).size()
    assert counted["dense", "", "as trained", 0, 0] == 1
    assert counted["2:4", "magnitude", "permuted", 4, 0] == 1
    assert counted["2:4", "sparsegpt", "as trained", 2, 0] == 2
    assert counted["unstructured,0.5", "wanda", "as trained", 4, 0] == 2
    assert ("unstructured,0.5", "wanda", "permuted", 4, 0) not in counted
    assert len(frame) == 1 + 2 * (2 * 2 + 1) + 2 + 4 + 1
    assert set(frame["text_hash"]) == {task.protocol.text_hash}
    assert set(frame["context"]) == {16}
    pruned = frame[frame["pattern"] != "dense"]
    assert ((pruned["density"] - 0.5).abs() < 0.01).all()
    assert (pruned["sequential"].astype(bool) == (pruned["pruner"] != "wanda")).all()
    assert pruned.loc[pruned["pruner"] == "sparsegpt", "pruner_options"].str.contains("damping").all()


def test_perplexity_is_that_of_its_windows_and_int8_that_of_rounded_weights(frame, task):
    dense = frame[frame["pattern"] == "dense"].iloc[0]
    model = task.model()
    assert dense["perplexity"] == pytest.approx(evaluate(task, model)["perplexity"], rel=1e-6)
    nats = [float(each) for each in dense["nats"].split()]
    assert nats == pytest.approx(window_nats(task, model), abs=1e-6)
    for name, weight in model.named_parameters():
        if name.startswith("blocks.") and weight.ndim == 2:
            scales = weight.detach().double().abs().amax(1, keepdim=True) / 127
            weight.data.copy_((weight.detach().double() / scales).round() * scales)
            assert torch.allclose(weight, rounded(weight.detach(), scales.float()), atol=1e-6)
    assert dense["int8_perplexity"] == pytest.approx(evaluate(task, model)["perplexity"], rel=1e-5)


def test_a_pair_is_compared_window_by_window(frame):
    rows = frame[(frame["pattern"] == "2:4") & (frame["calibration"] == 4) & (frame["steps"] == 0)]
    found = llm_tables._ratio(rows, "wanda", "permuted")
    nats = {
        channels: np.mean([[float(n) for n in each.split()] for each in mine["nats"]], axis=0)
        for channels, mine in rows[(rows["pruner"] == "wanda") & (rows["seed"] == 0)].groupby("channels")
    }
    difference = nats["permuted"] - nats["as trained"]
    half = 3.182446 * difference.std(ddof=1) / 2  # Student's t of four windows
    expected = [math.exp(difference.mean() + each) for each in (0, -half, half)]
    assert [found.mean, found.low, found.high] == pytest.approx(expected, rel=1e-5)
    assert llm_tables._ratio(rows, "wanda", "random order") is None


def test_tables_say_what_is_measured_and_what_is_quoted(frame):
    text = llm_tables.methods_text(frame, full=True)
    lines = [[each.strip() for each in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    quoted = {(line[0], line[1]): line[6] for line in lines if len(line) == 9}
    assert quoted["dense", ""] == "*5.47* (x *1.00*)"
    assert quoted["Wanda", "permuted"] == "*11.00* (x *2.01*)"
    assert quoted["magnitude", "as trained"] == "n/a"
    dense = frame[frame["pattern"] == "dense"]["perplexity"].iloc[0]
    mine = frame[(frame["pruner"] == "sparsegpt") & (frame["pattern"] == "unstructured,0.5")]["perplexity"]
    row = next(line for line in lines if len(line) == 6 and line[0] == "SparseGPT")
    assert row[2:4] == [f"{mine.mean():.1f} ± {mine.std():.1f}", f"{mine.mean() / dense:.2f}"]
    assert text.count("4 windows of 16 tokens, stride 16, float32; calibration") == 2
    recovery = llm_tables.recovery_text(frame)
    table = [line.split("|") for line in recovery.splitlines() if line.startswith("|")]
    assert [line[2].strip() for line in table[2:]] == ["0", "3"]
    assert recovery.count("| 0.500 |") == 2


def test_the_part_as_a_whole(task, frame, tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "loaded_task", lambda name: task)
    monkeypatch.setattr(llm, "QUICK", COMPARISONS)
    monkeypatch.setattr(llm, "trials", lambda comparisons, settings: frame.assign(seconds_total=1.0))
    section = llm.run(Settings(progress=False, device="cpu"))
    section.write(tmp_path, "llm")
    assert re.search(r"\*\*2:4\*\*, text \([0-9a-f]{12}\), 4 windows", section.text)
    assert (tmp_path / "llm_calibration.png").stat().st_size > 10_000
    assert set(pd.read_csv(tmp_path / "llm.csv")["source"]) == {"measured here"}
    sizes = llm.calibration_sizes(frame, "tiny")
    assert sorted(sizes["calibration"].unique()) == [2, 4]
    assert set(sizes["pruner"]) == {"wanda", "sparsegpt"}


def test_without_the_extra_it_says_so(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError('gguf is missing: pip install "sparselab[llm]"')

    monkeypatch.setattr(llm, "loaded_task", missing)
    assert llm.run(Settings(progress=False)).text == '**Skipped**: gguf is missing: pip install "sparselab[llm]".'
