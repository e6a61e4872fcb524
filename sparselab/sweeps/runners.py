"""What a sweep runs: a function of your own, or a built-in task that is trained, pruned and fine-tuned."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sparselab.core.fingerprint import digest
from sparselab.sweeps.worker import Task


class Runner(Protocol):
    """A task as a sweep plans it, before any trial has run."""

    @property
    def name(self) -> str:
        """What the column ``task`` says."""
        ...

    @property
    def task(self) -> Task:
        """What runs a trial, wherever that is."""
        ...

    def fill(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All inputs of a trial, those that were left out too; ``ValueError`` for one that it does not know."""
        ...

    def check(self, trials: Iterable[Mapping[str, Any]]) -> None:
        """Raise ``ValueError`` for what is misspelt in ``trials``."""

    def prepare(self) -> None:
        """Get what trials in this process need, so that they do not fail one by one for want of it."""

    def identity(self, version: str | int | None) -> Any:
        """What tells this task from another in a trial's key."""


@dataclass(frozen=True)
class OwnFunction:
    """A callable ``task(trial) -> dict``: every keyword is an input of its trials."""

    task: Task

    @property
    def name(self) -> str:
        """Its own name, else that of its class."""
        inner = getattr(self.task, "func", self.task)  # of a functools.partial
        return str(getattr(inner, "name", None) or getattr(inner, "__name__", None) or type(inner).__name__)

    def fill(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The seed is always an input."""
        return {**given, "seed": given.get("seed", 0)}

    def check(self, trials: Iterable[Mapping[str, Any]]) -> None:
        """Any input is right."""

    def prepare(self) -> None:
        """Nothing is needed."""

    def identity(self, version: str | int | None) -> Any:
        """The digest of its source, or the version in place of it."""
        return [self.name, digest(self.task) if version is None else version]


def runner(task: object) -> Runner:
    """The runner of what ``experiment`` was given as ``task``.

    A callable that needs an argument is the task itself; a name, a ``Task`` and a callable that
    needs none, which makes a ``Task``, are trained, pruned and fine-tuned. Raises ``ValueError``
    for anything else and for unknown names.
    """
    if callable(task) and not _makes_a_task(task):
        return OwnFunction(task)
    from sparselab.sweeps.pruning import pruning_run  # what trains networks is loaded where networks are trained
    from sparselab.tasks import Task as TrainingTask

    if callable(task) or isinstance(task, (str, TrainingTask)):
        return pruning_run(task)
    raise ValueError(f"task={task!r} is no task: give a name, a Task, or a callable(trial) -> dict of metrics")


def _makes_a_task(function: Callable[..., Any]) -> bool:
    """Whether ``function`` can be called without a trial."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):  # it needs an argument; some builtins do not say
        return False
    return not any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(function).parameters.values())
