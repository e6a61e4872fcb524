"""Several metrics measured in one pass: the network runs once on every batch, whoever asks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from sparselab.metrics.metric import Batch, Metric, Quantity


class LastAnswer(nn.Module):
    """``model`` with a memory of one answer: asked again with the same objects, it does not run again.

    Attributes that it lacks are those of ``model``. The answer is shared: do not change it in place.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._answer: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``model(*args, **kwargs)``."""
        if self._asked is None or not _same(self._asked, (args, kwargs)):
            self._answer = self.model(*args, **kwargs)
            self._asked = args, kwargs
        return self._answer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


def _same(one: tuple[tuple[Any, ...], dict[str, Any]], other: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Whether two calls have the very same arguments; equal ones need not be the same."""
    (args, kwargs), (others, named) = one, other
    return (
        len(args) == len(others)
        and kwargs.keys() == named.keys()
        and all(a is b for a, b in zip(args, others))
        and all(value is named[key] for key, value in kwargs.items())
    )


def measure(metrics: Sequence[Metric], model: nn.Module, batches: Iterable[tuple[Batch, int]]) -> dict[str, float]:
    """Each of ``metrics`` over ``batches``, every one with its number of examples; in the order of the metrics.

    ``metrics`` stay as they are. The model's mode and device are the caller's business; no gradients are kept. Raises
    ``ValueError`` where there are no batches.
    """
    running = copy.deepcopy(list(metrics))
    # One metric alone is given the model itself, so that a function of a user's meets the class that it expects.
    asked = LastAnswer(model) if len(running) > 1 else model
    batch = None
    with torch.no_grad():
        for batch, examples in batches:
            for metric in running:
                metric.observe(asked, batch, examples)
    if batch is None:
        raise ValueError("there are no batches to measure on: the iterable was empty (used up?)")
    return {name: value for metric in running for name, value in metric.values().items()}


def describe(metrics: Iterable[Metric], names: Iterable[str]) -> tuple[Quantity, ...]:
    """What ``metrics`` say of the quantities ``names``, in that order; of one that they do not know only its name."""
    known = {quantity.name: quantity for metric in metrics for quantity in metric.quantities()}
    return tuple(known.get(name, Quantity(name, name)) for name in names)
