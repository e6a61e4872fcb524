"""The dense network of a task, trained once and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.fingerprint import digest
from sparselab.core.folders import cache_dir
from sparselab.core.models import as_module
from sparselab.metrics.metric import Means, Metric, as_metrics
from sparselab.tasks.loop import evaluate, train
from sparselab.tasks.task import Task


def dense_baseline(
    task: Task,
    *,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
    progress: bool = False,
) -> tuple[nn.Module, dict[str, float]]:
    """The task's network trained by its recipe on ``device``, there and in evaluation mode, and its metrics.

    Trained once for every seed, then read from ``cache`` (default: ``baselines`` in sparselab's
    cache folder), where a file is found by the hash of what decides the result: the recipe, the
    fresh network's weights, layers and code, the data's size and first examples, the code of
    ``loss``, ``augment`` and ``metrics``, and ``task.version``. Several processes that ask at once
    wait for one; an interrupted training goes on where it stopped; of a network that needs no
    training only the metrics are kept. Every call returns a model of
    its own.
    """
    model = fresh_model(task, seed)
    trained_on = torch.device(device).type
    folder = cache_dir() / "baselines" if cache is None else Path(cache)
    file = folder / f"{task.name}-{fingerprint(task, model, seed, steps, trained_on)}.pt"
    model.to(device)
    with only_one(file):
        if file.is_file():
            saved = torch.load(file, map_location=device, weights_only=True)
            model.load_state_dict({**model.state_dict(), **saved["model"]})
            return model.eval(), saved["metrics"]
        train(task, model, steps=steps, seed=seed, checkpoint=file.with_suffix(".partial"), progress=progress)
        metrics = evaluate(task, model, progress=progress)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        untrained = (task.recipe.steps(len(task.train_data)) if steps is None else steps) == 0
        torch.save({"model": {} if untrained else model.state_dict(), "metrics": metrics}, partial)
        partial.replace(file)
    return model.eval(), metrics


def fresh_model(task: Task, seed: int = 0) -> nn.Module:
    """A new network of the task: the same ``seed``, the same weights. Torch's global generator is left as it was."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return as_module(task.model(), f"the model of task {task.name!r}")


def fingerprint(task: Task, model: nn.Module, seed: int = 0, steps: int | None = None, trained_on: str = "cpu") -> str:
    """A hash of what decides the result of training ``model``, a fresh network of ``task``, on a type of device."""
    forwards = {_code(getattr(kind, "forward", None)) for kind in map(type, model.modules())}
    parts = [
        *("2", task.name, task.version, repr(task.recipe), seed, steps, torch.__version__, trained_on),
        *(dict(model.state_dict()), len(task.train_data), len(task.eval_data)),
        task.train_data[torch.arange(min(8, len(task.train_data)))],
        *(repr(model), sorted(forwards)),  # what has no weights, such as an activation
        *(_code(task.loss), _code(task.augment), *(_code_of(metric) for metric in as_metrics(task.metrics))),
    ]
    hashed = hashlib.sha256()
    for content in _contents(parts):
        hashed.update(content)
    return hashed.hexdigest()[:16]


def _contents(part: Any) -> Iterator[bytes]:
    """The bytes of everything in ``part``, tensors by their values, in an order that its contents decide."""
    if isinstance(part, Tensor):
        yield part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(part, dict):
        for item in sorted(part.items()):
            yield from _contents(item)
    elif isinstance(part, (tuple, list)):
        for each in part:
            yield from _contents(each)
    else:
        yield repr(part).encode()


def _code_of(metric: Metric) -> str:
    """What a metric computes: a function alone counts as itself."""
    return _code(metric.function) if isinstance(metric, Means) else _code(metric.identity())


def _code(function: Any) -> str:
    """The digest of a function; only the name of one that is bound to what has none."""
    try:
        return digest(function)
    except ValueError:
        return str(getattr(function, "__qualname__", type(function).__qualname__))


@contextmanager
def only_one(file: Path) -> Iterator[None]:
    """One process at a time; the lock goes with its holder, however that ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows: there, two processes may both train, and the last to finish is kept
        yield
        return
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
