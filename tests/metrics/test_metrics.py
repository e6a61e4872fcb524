"""Metrics: sums that are right for ragged batches, directions that nobody guesses, one forward pass for all of them."""

import ast
import copy
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from torch import nn
from torch.utils.data import TensorDataset

import sparselab as sl
from sparselab.metrics import CrossEntropy, Mean, Means, Metric, Quantity, Top1, TopK, describe, measure
from sparselab.metrics.classification import IGNORED, logits_of
from sparselab.metrics.measuring import LastAnswer
from sparselab.metrics.metric import as_metrics
from sparselab.tasks import Collated, Recipe, Task, evaluate
from sparselab.tasks.baseline import fingerprint
from sparselab.tasks.task import classification_metrics

ROOT = Path(sl.__file__).parent


def shares(sizes, inputs, labels):
    """Batches of so many examples each."""
    places = np.cumsum([0, *sizes])
    return [((inputs[a:b], labels[a:b]), b - a) for a, b in itertools.pairwise(places)]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(2, 6), st.integers(0, 2**31))
def test_numbers_are_numpys_however_ragged_the_batches(sizes, classes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(sum(sizes), classes)), rng.integers(classes, size=sum(sizes))
    batches = shares(sizes, torch.from_numpy(logits), torch.from_numpy(labels))
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    losses = -special.log_softmax(logits, 1)[np.arange(len(labels)), labels]
    found = measure((Top1(), TopK(3), CrossEntropy()), nn.Identity(), batches)
    assert list(found) == ["top1", "top3", "loss"]
    expected = [100 * np.mean(ranks < 1), 100 * np.mean(ranks < 3), np.mean(losses)]
    assert list(found.values()) == pytest.approx(expected, rel=1e-12)


def test_tokens_that_are_ignored_do_not_count():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, 9, generator=generator), torch.randint(4, (6, 9), generator=generator)
    labels[2:, 3:] = IGNORED
    found = measure((Top1(), CrossEntropy()), nn.Identity(), shares([1, 3, 2], logits, labels))
    flat, counted = logits.movedim(1, 2).reshape(-1, 4), labels.reshape(-1)
    flat, counted = flat[counted != IGNORED], counted[counted != IGNORED]
    assert found["top1"] == pytest.approx(100 * float((flat.max(1).indices == counted).double().mean()))
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(flat.double(), counted)))
    with pytest.raises(ValueError, match="metric 'top1' has seen nothing that counts"):
        measure([Top1()], nn.Identity(), [((logits, torch.full_like(labels, IGNORED)), 6)])


class Counted(nn.Linear):
    """Counts its forward passes."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x)


class Perplexity(Metric):
    """``exp`` of the mean cross-entropy of a token: what a language model is judged by. Not in the product."""

    name, label, higher_is_better = "perplexity", "perplexity of held-out text", False

    def __init__(self):
        self.nats, self.tokens = 0.0, 0

    def update(self, model, batch):
        logits, labels = logits_of(model, batch)
        lengths = (labels != IGNORED).sum()
        losses = nn.functional.cross_entropy(logits.double(), labels, reduction="sum", ignore_index=IGNORED)
        self.nats, self.tokens = self.nats + float(losses), self.tokens + int(lengths)

    def compute(self):
        return math.exp(self.nats / self.tokens)


class Tagger(nn.Module):
    """Says a letter's successor: every token by itself."""

    def __init__(self):
        super().__init__()
        self.letters, self.head = nn.Embedding(8, 16), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x):
        return self.head(self.letters(x)).movedim(-1, 1)


def padded(examples):
    """A ragged batch: sequences of different lengths."""
    texts = nn.utils.rnn.pad_sequence(examples, batch_first=True)
    lengths = torch.tensor([len(text) for text in examples])
    labels = (texts + 1) % 8
    labels[torch.arange(texts.shape[1])[None] >= lengths[:, None]] = IGNORED
    return texts, labels


def letters(metrics=None):
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(8, (int(n),), generator=generator) for n in torch.randint(2, 9, (90,), generator=generator)]
    train, held_out = Collated(texts[:60], padded), Collated(texts[60:], padded)
    return Task(
        "letters", Tagger, train, held_out, metrics=metrics or (Perplexity(), Top1()), example_inputs=padded(texts[:2])[0],
        recipe=Recipe("adamw,0.03", epochs=2, batch_size=16), finetuning=Recipe("adamw,0.01", epochs=1, batch_size=16),
    )  # fmt: skip


def test_perplexity_is_of_all_tokens_together():
    task, model = letters(), Tagger().eval()
    texts, labels = task.eval_data[torch.arange(len(task.eval_data))]
    whole = nn.functional.cross_entropy(model(texts).detach().double(), labels, ignore_index=IGNORED)
    by_seven, at_once = (evaluate(task, model, batch_size=size) for size in (7, 1000))
    assert list(by_seven) == ["perplexity", "top1"]
    assert by_seven["perplexity"] == pytest.approx(float(whole.exp()), rel=1e-6)
    assert by_seven == pytest.approx(at_once, rel=1e-6)
    assert task.metrics[0].tokens == 0  # the task's own objects are never updated


def test_perplexity_through_a_sweep_its_bar_its_figures_and_its_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPARSELAB_CACHE", str(tmp_path / "cache"))
    options = {"pattern": ["2:4", "1:4"], "permutation": None, "steps": 4, "threads": 1}
    swept = sl.experiment(letters, store=tmp_path / "runs.sqlite", progress=True, **options)
    assert swept["error"].dropna().tolist() == []
    assert swept.attrs["metrics"][:3] == ["dense_perplexity", "pruned_perplexity", "finetuned_perplexity"]
    best = swept["finetuned_perplexity"].min()
    assert best < swept["finetuned_perplexity"].max()
    assert f"best finetuned_perplexity {best:.4g}" in capsys.readouterr().err
    loaded = sl.load(swept.attrs["store"])
    assert loaded.attrs["quantities"] == swept.attrs["quantities"]
    (axes,) = sl.plots.accuracy_bars(loaded).axes
    assert axes.get_title(loc="left") == "finetuned perplexity of held-out text, less is better"
    assert sorted(bar.get_width() for bar in axes.patches) == sorted(swept["finetuned_perplexity"])
    history = sl.history(loaded)
    (axes,) = sl.plots.recompute_curves(history).axes
    assert axes.get_ylabel() == "perplexity of held-out text, less is better"
    frame = loaded.assign(finetuned_perplexity=[9.0, 7.0], cost=[1.0, 2.0])
    fronts = [
        line.get_ydata().tolist()
        for costs in ([1.0, 2.0], [2.0, 1.0])  # the better one is dearer, then cheaper: then there is no front to walk
        for line in sl.plots.pareto(frame.assign(cost=costs), "cost").axes[0].lines
        if line.get_label() == "front"
    ]
    assert fronts == [[9.0, 7.0]]
    steps = sl.experiment(letters, permutation=None, steps=0, progress=False, threads=1)
    (axes,) = sl.plots.accuracy_bars(steps).axes
    assert axes.get_title(loc="left") == "pruned perplexity of held-out text, less is better"


def test_perplexity_in_the_widget():
    pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
    task = letters(Perplexity())
    panel = sl.widgets.MaskRecomputation(task, schedules=["one_shot"], steps=3, dense=Tagger())
    panel.run()
    panel.wait(120)
    assert panel.problem == ""
    assert "perplexity of held-out text: one_shot" in panel._status.value
    first, second, *_ = panel.figure.axes
    assert first.get_title(loc="left") == "perplexity of held-out text"
    assert len(first.lines) == 1
    assert not second.get_visible()


def test_the_network_runs_once_a_batch():
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    data = TensorDataset(x, y)
    task = Task("counted", lambda: Counted(4, 3), data, data, metrics=(Top1(), CrossEntropy(), TopK(2)))
    model = Counted(4, 3)
    Counted.calls = 0
    evaluate(task, model, batch_size=4)
    assert Counted.calls == 3


def test_the_last_answer_is_of_the_same_tensors_only():
    model, x = Counted(4, 3), torch.zeros(2, 4)
    asked = LastAnswer(model)
    Counted.calls = 0
    first = asked(x)
    assert asked(x) is first
    assert Counted.calls == 1
    assert asked(x.clone()) is not first  # equal is not the same: it may be changed in place
    asked(x=x)
    assert Counted.calls == 3
    assert asked.in_features == 4
    with pytest.raises(AttributeError, match="nonsense"):
        asked.nonsense  # noqa: B018
    assert len(list(asked.parameters())) == 2


def blobs(metrics):
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, torch.arange(10) % 3)
    return Task("blobs", lambda: nn.Linear(4, 3), data, data, metrics=metrics)


def test_a_function_of_means_is_weighted_by_examples():
    seen = []

    def function(model, batch):
        assert type(model) is nn.Linear  # what a user's function expects
        seen.append(len(batch[1]))
        return {"f1": float(len(batch[1])), "again": 1.0}

    task, model = blobs(function), nn.Linear(4, 3)
    assert evaluate(task, model, batch_size=4) == {"f1": (4 * 4 + 4 * 4 + 2 * 2) / 10, "again": 1.0}
    assert seen == [4, 4, 2]
    assert evaluate(task, model, batch_size=4)["f1"] == 3.6
    assert task.headline.higher_is_better is None
    told = Means(function, {"f1": True})
    assert [q.higher_is_better for q in describe([told], ["f1", "again"])] == [True, None]
    assert (blobs(told).headline.name, blobs(told).headline.higher_is_better) == ("f1", True)


def test_a_function_of_means_has_no_best_in_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPARSELAB_CACHE", str(tmp_path))

    def sweep(metrics):
        task = replace(letters(), metrics=metrics)
        return sl.experiment(lambda: task, permutation=None, steps=0, threads=1, progress=True)

    frame = sweep(classification_metrics)
    assert frame.attrs["metrics"][:2] == ["dense_top1", "pruned_top1"]
    assert frame.attrs["quantities"][0] == {
        "name": "finetuned_top1",
        "label": "finetuned top1",
        "higher_is_better": None,
    }
    assert f"last pruned_top1 {frame['pruned_top1'][0]:.4g}" in capsys.readouterr().err
    assert sl.plots.accuracy_bars(frame).axes[0].get_title(loc="left") == "pruned top1"
    sweep(Means(classification_metrics, {"top1": True}))
    assert "best pruned_top1" in capsys.readouterr().err


@pytest.mark.parametrize("metrics", [(), None, 3, Top1, ["top1"], (Top1(), Top1())])
def test_what_is_no_metric_is_refused_when_the_task_is_made(metrics):
    with pytest.raises(ValueError, match="metrics="):
        blobs(metrics)


def test_what_a_metric_computes_is_part_of_a_baselines_hash():
    class Own(Mean):
        name, higher_is_better = "own", True

        def sums(self, model, batch):
            return 1.0, 1

    class Other(Own):
        def sums(self, model, batch):
            return 2.0, 1

    Other.__name__, Other.__qualname__ = Own.__name__, Own.__qualname__
    variants = [Top1(), TopK(2), TopK(3), (Top1(), CrossEntropy()), (CrossEntropy(), Top1()), Own(), Other()]
    variants += [Means(classification_metrics, {"top1": True}), lambda model, batch: {"a": 1.0}]
    prints = [fingerprint(blobs(metrics), nn.Linear(4, 3).requires_grad_(False).apply(zeroed)) for metrics in variants]
    assert len(set(prints)) == len(variants)
    again = copy.deepcopy(variants[:-1])
    assert [fingerprint(blobs(m), nn.Linear(4, 3).apply(zeroed)) for m in again] == prints[:-1]


def zeroed(module):
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def test_nothing_is_better_without_a_direction():
    assert Quantity("x").better(1.0, than=2.0) is None
    assert Quantity("x", higher_is_better=False).better(1.0, than=2.0)
    assert not Quantity("x", higher_is_better=True).better(1.0, than=2.0)
    with pytest.raises(ValueError, match="no batches to measure on"):
        measure(as_metrics(Top1()), nn.Identity(), [])
    with pytest.raises(ValueError, match="k must be at least 2"):
        TopK(1)


def words(tree):
    """Names and strings of code; what docstrings and comments say is prose."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
        named = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
        yield from (name for name in named if isinstance(name, str))


def test_only_metrics_know_the_word_top1():
    """``tasks`` hand on the function of that name; ``reproduce`` is about papers that judge by it."""
    excepted = {"tasks/__init__.py", "tasks/pictures.py", "trackers/accuracy.py"}
    for file in ROOT.rglob("*.py"):
        room = file.relative_to(ROOT)
        text = file.read_text()
        if room.parts[0] != "metrics":
            assert not re.search(r"argmax\((1|dim=1|-1)\)\s*==", text), f"{room} computes top-1 itself"
        if room.parts[0] in ("metrics", "reproduce") or str(room) in excepted:
            continue
        found = [word for word in words(ast.parse(text)) if re.search(r"top[-_ ]?1(?!\d)", word, re.IGNORECASE)]
        assert not found, f"{room} knows {found}"


class Refilled:
    """A data set that hands out the same tensors again and again, filled anew: what a fast loader does."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels
        self.buffers = torch.empty(2, inputs.shape[1]), torch.empty(2, dtype=torch.int64)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, indices):
        for buffer, source in zip(self.buffers, (self.inputs, self.labels)):
            buffer.copy_(source[indices])
        return self.buffers


def test_a_loader_that_fills_its_tensors_again_is_measured_right():
    data = Refilled(torch.eye(6), torch.tensor([0, 1, 3, 2, 5, 4]))  # the first two are right
    model = nn.Linear(6, 6, bias=False)
    nn.init.eye_(model.weight)
    task = Task("refilled", nn.Identity, data, data, metrics=(Top1(), CrossEntropy()))
    assert evaluate(task, model, batch_size=2)["top1"] == pytest.approx(100 / 3)


class Spread(Mean):
    """How far several answers to the same batch are from each other, dropout on: Monte Carlo dropout."""

    name, higher_is_better = "spread", False

    def sums(self, model, batch):
        model.train()
        answers = torch.stack([model(batch[0]) for _ in range(4)])
        model.eval()
        return float(answers.std(0).mean(1).sum()), len(batch[0])


@pytest.mark.parametrize("order", [1, -1])
def test_a_metric_that_asks_again_is_answered_again(order):
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity()).eval()
    batches = shares([5, 5], 2 * torch.eye(10) + 1, torch.arange(10))
    torch.manual_seed(0)
    found = measure([Spread(), Top1()][::order], model, batches)
    assert found["spread"] > 0.1
    assert found["top1"] == 100  # without dropout, whoever asked before


class FirstLayer(Mean):
    """Looks inside the model, as at any Sequential."""

    name, higher_is_better = "first", None

    def sums(self, model, batch):
        (layer, *_) = model
        assert model[0] is layer
        assert len(model) == 2
        return float(layer(batch[0]).sum()), len(batch[0])


def test_the_layers_of_a_model_can_be_asked_for():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    found = measure([FirstLayer(), Top1()], model, shares([2], torch.eye(2), torch.arange(2)))
    assert found == {"first": 1.0, "top1": 100.0}


def test_two_quantities_of_one_name_are_told_apart_or_refused():
    double = Means(lambda model, batch: {"top1": 1.0})
    with pytest.raises(ValueError, match="both report 'top1'"):
        measure([Top1(), double], nn.Identity(), shares([2], torch.eye(2), torch.arange(2)))


def test_metrics_may_come_as_a_generator():
    task = blobs(metric for metric in (Top1(), CrossEntropy()))
    assert [evaluate(task, nn.Linear(4, 3), batch_size=4).keys() for _ in range(2)] == [{"top1", "loss"}] * 2


def test_a_mean_needs_no_constructor_call():
    class Rows(Mean):
        name, higher_is_better = "rows", True

        def __init__(self, times):
            self.times = times  # no super().__init__()

        def sums(self, model, batch):
            return float(self.times * len(batch[0])), 1

    assert measure([Rows(3)], nn.Identity(), shares([2, 4], torch.eye(6), torch.arange(6))) == {"rows": 9.0}
