"""Where a model belongs and something else is given: what is taken, what was given, and what to do."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.masks.one_d import OneD
from sparselab.network.control import random_plan
from sparselab.pruners import BySaliency
from sparselab.sweeps.runners import runner

X = torch.randn(2, 8)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def task(made: Any) -> sl.tasks.Task:
    data = torch.utils.data.TensorDataset(X, torch.zeros(2, dtype=torch.int64))
    return sl.tasks.Task("mine", lambda: made, data, data, example_inputs=X)


FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "magnitude_report": lambda given: sl.magnitude_report(given, "2:4"),
    "Sparsifier": lambda given: sl.Sparsifier(given),
    "apply_to": lambda given: sl.Sparsifier(model()).apply_to(given),
    "ASP": lambda given: sl.ASP.init_model_for_pruning(given),
    "permute": lambda given: sl.permute(given, X),
    "random_plan": lambda given: random_plan(given, X),
    "Plan.apply": lambda given: sl.Plan().apply(given),
    "collect": lambda given: sl.statistics.collect(given, [X]),
    "prune": lambda given: sl.prune(given, [X], progress=False),
    "reconstruct": lambda given: sl.reconstruct(given, model(), [X], progress=False),
    "mask_lora": lambda given: sl.mask_lora(given),
    "export_onnx": lambda given: sl.export_onnx(given, X, "model.onnx"),
    "forecast": lambda given: sl.forecast(given, X),
    "benchmark": lambda given: sl.benchmark(given, X),
    "recalibrate_batchnorm": lambda given: sl.recalibrate_batchnorm(given, [X]),
    "AccuracyTracker": lambda given: sl.trackers.AccuracyTracker(given, []),
    "save": lambda given: sl.save(given, "nowhere"),
    "load_into": lambda given: sl.load_into(given, "nowhere"),
    "to_semi_structured": lambda given: sl.to_semi_structured(given),
    "to_dense": lambda given: sl.deploy.to_dense(given),
    "evaluate": lambda given: sl.tasks.evaluate(task(given), given),
    "train": lambda given: sl.tasks.train(task(given), given),
    "the model of task 'mine'": lambda given: sl.tasks.fresh_model(task(given)),
}
GIVEN = {
    "None: does the function that makes the model return it?": None,
    "a OrderedDict: load a state dict into its model first, model.load_state_dict(state)": model().state_dict(),
    "the path 'model.pt': make the model and load the file into it first": Path("model.pt"),
    "the path 'model.safetensors': make the model and load the file into it first": "model.safetensors",
    "the class Linear: make a model of it, Linear(...)": nn.Linear,
    "a list: put its modules together first, torch.nn.Sequential(*modules)": [nn.Linear(8, 8)],
    "the function model: give the model that it makes or calls": model,
    "the function partial: give the model that it makes or calls": functools.partial(nn.Linear, 8, 8),
    "a tensor of shape (2, 8): give the model that holds it": X,
    "3, a int": 3,
}


@pytest.mark.parametrize("taker", FUNCTIONS)
@pytest.mark.parametrize("words", GIVEN)
def test_what_is_no_module_is_refused(taker, words):
    with pytest.raises(ValueError, match=re.escape(f"{taker} takes a torch.nn.Module, got {words}")):
        FUNCTIONS[taker](GIVEN[words])


@pytest.mark.parametrize("words", GIVEN)
def test_widgets_take_modules_too(words):
    pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
    with pytest.raises(ValueError, match=re.escape(f"MagnitudeLoss takes a torch.nn.Module, got {words}")):
        sl.widgets.MagnitudeLoss(GIVEN[words])
    with pytest.raises(ValueError, match=re.escape(f"PrunerComparison takes a torch.nn.Module, got {words}")):
        sl.widgets.PrunerComparison(GIVEN[words], [X])
    with pytest.raises(ValueError, match=re.escape(f"SpeedForecast takes a torch.nn.Module, got {words}")):
        sl.widgets.SpeedForecast(GIVEN[words], X)
    if GIVEN[words] is not None:
        with pytest.raises(ValueError, match=re.escape(f"(dense=...) takes a torch.nn.Module, got {words}")):
            sl.widgets.MaskRecomputation(task(model()), dense=GIVEN[words])
    if GIVEN[words] is not X:
        with pytest.raises(ValueError, match=re.escape(f"or an array, takes a torch.nn.Module, got {words}")):
            sl.widgets.PermutationGain(GIVEN[words])


@pytest.mark.parametrize("missing", ["ipywidgets", "anywidget"])
def test_the_widgets_say_which_extra_they_need(monkeypatch, missing):
    pytest.importorskip(missing, reason="needs the extra 'lab'")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf'the widgets need {missing}: pip install "sparselab\[lab\]"'):
        importlib.reload(sl.widgets)


@pytest.fixture(scope="module")
def not_python() -> dict[str, nn.Module]:
    around = nn.Sequential(nn.Linear(8, 8))
    around[0].add_module("back", around)
    return {
        "a module in Python, got a scripted or traced one": torch.jit.script(model()),
        "a module with its layers, got an exported program": torch.export.export(model(), (X,)).module(),
        "a module with an end, got one that is inside itself, as '0.back'": around,
    }


@pytest.mark.parametrize(
    "taker",
    [
        *("Sparsifier", "apply_to", "ASP", "permute", "random_plan", "Plan.apply", "collect", "recalibrate_batchnorm"),
        *("prune", "reconstruct", "mask_lora", "save", "load_into", "to_semi_structured"),
    ],
)
def test_what_cannot_be_changed_or_hooked_is_refused(taker, not_python):
    for words, given in not_python.items():
        with pytest.raises(ValueError, match=re.escape(f"{taker} takes {words}")):
            FUNCTIONS[taker](given)


def test_exported_programs_and_unfinished_modules_are_told():
    class Unfinished(nn.Module):
        def __init__(self):
            self.width = 3

    with pytest.raises(
        ValueError, match=r"got a Unfinished that is none yet: call super\(\).__init__\(\) in its __init__"
    ):
        sl.Sparsifier(Unfinished())
    program = torch.export.export(model(), (X,))
    with pytest.raises(
        ValueError, match="got an exported program: give the model that it was made of, and export that"
    ):
        sl.permute(program, X)


def test_models_without_parameters_are_measured():
    """A bare StopIteration it was, which ends whatever loop is around."""
    doubled = nn.Hardtanh()
    labels = X.argmax(1)
    data = torch.utils.data.TensorDataset(X, labels)
    measured = sl.tasks.evaluate(sl.tasks.Task("mine", lambda: doubled, data, data), doubled)
    assert measured["top1"] == 100 * float((doubled(X).argmax(1) == labels).double().mean())
    tracker = sl.trackers.AccuracyTracker(doubled, [(X, labels)])
    tracker.record()
    assert tracker.frame["top1"].tolist() == [measured["top1"]]
    with pytest.raises(
        ValueError, match="no parameter of this Hardtanh requires a gradient, so there is nothing to train"
    ):
        sl.tasks.train(sl.tasks.Task("mine", lambda: doubled, data, data), doubled)
    frozen_where_it_matters = nn.Sequential(nn.Linear(8, 8).requires_grad_(False), nn.LazyLinear(3))
    frozen_where_it_matters.forward = frozen_where_it_matters[0].forward
    with pytest.raises(ValueError, match="the loss does not depend on a parameter that requires a gradient"):
        sl.tasks.train(sl.tasks.Task("mine", lambda: None, data, data), frozen_where_it_matters, steps=1)


def test_answers_that_choose_no_class_are_refused():
    for answer, words in (
        (nn.Flatten(0), r"float32 of shape \(16,\)"),
        (nn.Linear(8, 0), r"float32 of shape \(2, 0\)"),
        (nn.LSTM(8, 8), "a tuple"),
    ):
        tracker = sl.trackers.AccuracyTracker(answer, [(X, torch.zeros(2, dtype=torch.int64))])
        with pytest.raises(
            ValueError,
            match=rf"classes are chosen by logits .* here of shape \(2,\); the model answered {words}: give a loss and",
        ):
            tracker.record()
    for batch, kind in ((X, "Tensor"), ({"input": X}, "dict"), ((X,), "tuple")):
        with pytest.raises(ValueError, match=rf"A batch is \(inputs, labels\), .* or a dict with labels; got a {kind}"):
            sl.trackers.AccuracyTracker(nn.Linear(8, 8), [batch]).record()


def test_a_task_whose_model_is_none_is_refused_by_experiment():
    made = runner(lambda: task(None))
    assert made is not None
    frame = sl.experiment(task=task(None), steps=0, progress=False)
    assert frame["state"].tolist() == ["failed"]
    assert "the model of task 'mine' takes a torch.nn.Module, got None" in frame["error"][0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (X, "calibration is a Tensor; give batches"),
        ({"input": X}, "calibration is a dict; give batches"),
        (3, "calibration is a int; give batches"),
        (iter([]), "no batch to"),
    ],
)
def test_calibration_is_batches(given, words):
    dense, weights = model(), model().state_dict()
    dense.load_state_dict(weights)
    for taker in (
        lambda: sl.prune(dense, given, progress=False),
        lambda: sl.reconstruct(dense, model(), given, progress=False),
        lambda: sl.widgets.PrunerComparison(dense, given),
    ):
        with pytest.raises(ValueError, match=words):
            taker()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize(
    ("call", "taker"),
    [
        (lambda: sl.save(model(), None), "save"),
        (lambda: sl.load_into(model(), None), "load_into"),
        (lambda: sl.Plan.load(None), "Plan.load"),
        (lambda: sl.Plan().save(None), "Plan.save"),
        (lambda: sl.load(None), "a store"),
        (lambda: sl.export_onnx(model(), X, None), "export_onnx"),
        (lambda: sl.widgets.SweepExplorer(None), "SweepExplorer"),
    ],
)
def test_what_is_no_path_is_said(call: Callable[[], object], taker: str) -> None:
    with pytest.raises(ValueError, match=f"^{taker} takes a path, a text or a pathlib.Path, got None"):
        call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sl.permute(model(), X, permutation="auto"), r"permute\(\) has no permutation=: write strategy="),
        (lambda: sl.search_permutation(X, permutation=None), r"search_permutation\(\) has no permutation=: write"),
        (lambda: sl.search_permutations([X], permutation=None), r"search_permutations\(\) has no permutation="),
        (lambda: sl.Sparsifier(model(), strategy="auto"), r"Sparsifier\(\) has no strategy=: write permutation="),
        (lambda: sl.prune(model(), [X], strategy="auto"), r"prune\(\) has no strategy=: write permutation="),
    ],
)
def test_the_word_of_a_neighbour_is_told_from_the_one_here(call: Callable[[], object], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sl.permute(model(), X, orders=3), "orders is a name with options (valid: free, gathered, own), got 3"),
        (lambda: sl.prune(model(), [X], orders=None), "orders is a name with options"),
        (lambda: sl.Sparsifier(model(), orders=3), "orders is a name with options"),
        (lambda: sl.search_permutations(None), "takes a list of weights, matrices or problems, got NoneType"),
        (lambda: sl.plots.search_pareto(None), "search_pareto draws a pandas frame, got NoneType"),
        (lambda: sl.plots.pareto({"a": [1]}, "a", "a"), "pareto draws a pandas frame, got dict"),
    ],
)
def test_what_is_of_another_kind_is_named(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call()


@pytest.mark.parametrize("seed", [-1, None, 1.5])
def test_what_is_no_seed_is_said_before_a_search(seed: Any) -> None:
    for call in (lambda: sl.search_permutation(X, seed=seed), lambda: sl.permute(model(), X, seed=seed)):
        with pytest.raises(ValueError, match=f"seed={seed}: a search is seeded by an integer that is not negative"):
            call()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"pattern": "2:4x"}, "'2:4x' is not a pattern"),
        ({"pattern": sl.Sparsifier}, "pattern=Sparsifier is a class: give an object of it"),
        ({"pruner": sl.Sparsifier}, "a pruner is a name with options or an object"),
        ({"pruner": "wandaa"}, "magnitude, ria, sparsegpt, swaps, wanda. Did you mean 'wanda'?"),
        ({"permutation": 3}, "a strategy is a name with options"),
        ({"saliency": 3}, "a saliency is a name, a callable weight -> scores or a tensor of scores, got int"),
        ({"schedule": 3}, "a schedule is a name with options"),
        ({"orders": 3}, "orders is a name with options (valid: free, gathered, own), got 3"),
        ({"strategy": "auto"}, "has no strategy=: write permutation="),
    ],
)
def test_a_sweep_refuses_before_the_first_trial(inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        sl.experiment(task(model()), steps=0, progress=False, **inputs)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pattern": sl.Sparsifier}, "pattern=Sparsifier is a class: give an object of it"),
        ({"saliency": 3}, "a saliency is a name, a callable"),
        ({"permutation": 3}, "a strategy is a name with options"),
    ],
)
def test_a_sparsifier_refuses_before_it_adds_buffers(options: dict[str, Any], says: str) -> None:
    given = model()
    with pytest.raises(ValueError, match=says):
        sl.Sparsifier(given, **options)
    assert not list(given.buffers())


@pytest.mark.parametrize("given", [None, lambda: 3])
def test_what_makes_no_task_is_said(given: Any) -> None:
    with pytest.raises(ValueError, match=r"a task is a name|is called for a Task, and returned 3"):
        sl.tasks.get_task(given)


def test_widgets_say_that_they_know_patterns_and_pruners_by_name() -> None:
    with pytest.raises(ValueError, match=r"widgets know patterns by name, got OneD.*CALCULATORS.register"):
        sl.widgets.MagnitudeLoss(model(), OneD(2, 4))
    with pytest.raises(ValueError, match="widgets know a pruner by name"):
        sl.widgets.PrunerComparison(model(), [X], pruners=[BySaliency()])
    with pytest.raises(ValueError, match="Did you mean 'h100'"):
        sl.widgets.SpeedForecast(model(), X, hardware="h101")
