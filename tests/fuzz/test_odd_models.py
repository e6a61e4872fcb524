"""Every public function that takes a model, on models that are odd.

Each gives a result, or a ``ValueError`` or ``TypeError`` raised here, whose message says what to do;
and after an error the model is what it was.
"""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import sparselab as sl
import sparselab.widgets.picture as picture
from sparselab.core.moves import Move
from sparselab.statistics import InputNorms, SecondMoments, collect
from tests.fuzz.odd_models import ODD, Odd

SOURCES = str(Path(sl.__file__).parent)


def cycle_of_masks(model: nn.Module, inputs: Any) -> None:
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
    optimizer = optimizer_of(model)
    sparsifier.attach(optimizer)
    sparsifier.frame()
    sparsifier.compute()
    optimizer.step()
    sparsifier.frame()
    sparsifier.restore()
    sparsifier.compute()
    sparsifier.apply_to(model)
    sparsifier.finalize()


def permuted_and_pruned(model: nn.Module, inputs: Any) -> None:
    sl.Sparsifier(model, "2:4", example_inputs=inputs).compute()


def asp(model: nn.Module, inputs: Any) -> None:
    try:
        sl.ASP.prune_trained_model(model, optimizer_of(model), example_inputs=inputs)
    finally:
        sl.ASP.reset()


def plan(model: nn.Module, inputs: Any) -> None:
    """The first parameter's first dimension, turned round."""
    name, tensor = next(iter(model.named_parameters()), ("weight", torch.zeros(3)))
    shape = (16, 16) if nn.parameter.is_lazy(tensor) else tuple(tensor.shape) or (1,)
    moves = (Move((name,), shape, 0, 0, np.arange(shape[0])[::-1].copy()),) if shape[0] else ()
    sl.Plan(moves).apply(model)


def saved_and_loaded(model: nn.Module, inputs: Any) -> None:
    for form in ("dense", "compressed"):
        with tempfile.TemporaryDirectory() as folder:
            sl.save(model, folder, form=form)
            sl.load_into(model, folder)


def track(model: nn.Module, inputs: Any) -> None:
    sl.trackers.AccuracyTracker(model, [labelled(inputs)], every=1).record()


def task(model: Any, inputs: Any) -> sl.tasks.Task:
    class Examples:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, indices: Tensor) -> Any:
            return labelled(inputs)

    recipe = sl.tasks.Recipe("sgd,0.01")
    return sl.tasks.Task("odd", lambda: model, Examples(), Examples(), example_inputs=inputs, recipe=recipe)


def labelled(inputs: Any) -> tuple[Any, Tensor]:
    return tree_map(lambda entry: entry.clone() if isinstance(entry, Tensor) else entry, inputs), torch.zeros(2).long()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.is_leaf and not nn.parameter.is_lazy(p)]
    return torch.optim.SGD(weights or [nn.Parameter(torch.zeros(1))], lr=0.1)


FUNCTIONS: dict[str, Callable[[Any, Any], object]] = {
    "check": lambda model, inputs: sl.check(model),
    "magnitude_report": lambda model, inputs: sl.magnitude_report(model, "2:4"),
    "Sparsifier": cycle_of_masks,
    "Sparsifier, permuting": permuted_and_pruned,
    "ASP": asp,
    "permute": lambda model, inputs: sl.permute(model, inputs, strategy="channel_swap,0"),
    "Plan.apply": plan,
    "save, load_into": saved_and_loaded,
    "to_semi_structured": lambda model, inputs: sl.to_semi_structured(model),
    "collect": lambda model, inputs: collect(model, [inputs], [InputNorms, SecondMoments]),
    "collect_activations": lambda model, inputs: sl.saliency.collect_activations(model, [inputs]),
    "prune": lambda model, inputs: sl.prune(model, [inputs], progress=False),
    "recalibrate_batchnorm": lambda model, inputs: sl.recalibrate_batchnorm(model, [inputs]),
    "AccuracyTracker": track,
    "tasks.evaluate": lambda model, inputs: sl.tasks.evaluate(task(model, inputs), model),
    "tasks.recalibrate": lambda model, inputs: sl.tasks.recalibrate(task(model, inputs), model),
    "tasks.activations": lambda model, inputs: sl.tasks.activations(task(model, inputs), model),
    "tasks.train": lambda model, inputs: sl.tasks.train(task(model, inputs), model, steps=1),
    "MagnitudeLoss": lambda model, inputs: sl.widgets.MagnitudeLoss(model).close(),
    "PermutationGain": lambda model, inputs: sl.widgets.PermutationGain(model, example_inputs=inputs).close(),
}


DOCUMENTED = {"tasks.train": (FloatingPointError,)}  # of a loss that is not finite


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(autouse=True)
def _not_painted(monkeypatch):
    """Figures are made; painting them takes longer than everything else here."""
    monkeypatch.setattr(picture, "png", lambda figure, ratio: b"")


@pytest.mark.parametrize("name", ODD)
def test_a_result_or_an_error_that_says_what_to_do(name):
    problems = [problem for function in FUNCTIONS for problem in problems_of(function, ODD[name])]
    assert not problems, "\n".join(problems)


def problems_of(function: str, odd: Odd) -> Iterator[str]:
    """What went wrong in one call, in words; nothing if it did as it should."""
    model, inputs = odd.make(), odd.inputs()
    before = snapshot(model)
    try:
        FUNCTIONS[function](model, inputs)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{function}: {type(error).__name__}: {str(error)[:300]}"
        if not isinstance(error, (ValueError, TypeError, *DOCUMENTED.get(function, ()))):
            yield f"{said} ({where.filename}:{where.lineno})"
        elif not where.filename.startswith(SOURCES):
            yield f"{said} is not raised by sparselab but at {where.filename}:{where.lineno}"
        elif not says_what_to_do(str(error)):
            yield f"{said} does not say what to do"
        after = snapshot(model)
        # What trains has begun to: batch norms have seen a batch.
        if function != "tasks.train" and (changed := [name for name in before if before[name] != after.get(name)]):
            yield f"{said}; changed {changed}"


def says_what_to_do(message: str) -> bool:
    return len(message.split()) > 6


def snapshot(model: nn.Module) -> dict[str, Any]:
    """What parameters and buffers hold, by name, as bytes; where there are none to be had, who holds it."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: _content(tensor) for name, tensor in named if not nn.parameter.is_lazy(tensor)}


def _content(tensor: Tensor) -> Any:
    try:
        plain = tensor.detach().to_dense() if tensor.is_sparse or tensor.is_sparse_csr else tensor.detach()
        return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return id(tensor)
