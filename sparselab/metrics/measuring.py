"""Several metrics measured in one pass: the network runs once on every batch, whoever asks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from sparselab.metrics.metric import Batch, Metric, Quantity


class LastAnswer(nn.Module):
    """``model`` with a memory of one answer: of several askers, all but the first are told what it said.

    An asker is told once; what it asks again is run again, so that random answers stay random. The
    memory is for the very same objects, in the same mode of the model and of autograd, until
    ``forget``. Attributes that it lacks are those of ``model``. The answer is shared: do not change
    it in place.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.forget()

    def asking_for(self, asker: object) -> LastAnswer:
        """Itself, with ``asker`` as the one that asks from now on."""
        self._asker: int | None = id(asker)
        return self

    def forget(self) -> None:
        """Keep no answer: the objects that were asked about may be filled with other values."""
        self._asked: _Asked | None = None
        self._answer: Any = None
        self._told: set[int] = set()
        self._asker = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``model(*args, **kwargs)``."""
        asked = _Asked(args, kwargs, (torch.is_grad_enabled(), *(module.training for module in self.model.modules())))
        if self._asked is None or self._asker in self._told or not asked.same(self._asked):
            self._answer = self.model(*args, **kwargs)
            self._asked, self._told = asked, set()
        if self._asker is not None:
            self._told.add(self._asker)
        return self._answer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def __getitem__(self, key: Any) -> Any:
        return self.model[key]  # type: ignore[index]  # where it has items, as a Sequential does

    def __iter__(self) -> Iterator[Any]:
        return cast("Iterator[Any]", iter(self.model))  # type: ignore[call-overload]

    def __len__(self) -> int:
        return len(self.model)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class _Asked:
    """A call of a model: its arguments and the modes in which it was made."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    modes: tuple[bool, ...]

    def same(self, other: _Asked) -> bool:
        """Whether ``other`` has the very same arguments, which equal ones need not be, in the same modes."""
        return (
            self.modes == other.modes
            and len(self.args) == len(other.args)
            and self.kwargs.keys() == other.kwargs.keys()
            and all(a is b for a, b in zip(self.args, other.args))
            and all(value is other.kwargs[key] for key, value in self.kwargs.items())
        )


def measure(metrics: Sequence[Metric], model: nn.Module, batches: Iterable[tuple[Batch, int]]) -> dict[str, float]:
    """Each of ``metrics`` over ``batches``, every one with its number of examples; in the order of the metrics.

    ``metrics`` stay as they are. The model's mode and device are the caller's business; no gradients are kept. Raises
    ``ValueError`` where there are no batches, and for two quantities of one name.
    """
    running = copy.deepcopy(list(metrics))
    # One metric alone is given the model itself, so that a function of a user's meets the class that it expects.
    shared = LastAnswer(model) if len(running) > 1 else None
    batch = None
    with torch.no_grad():
        for batch, examples in batches:
            for metric in running:
                metric.observe(model if shared is None else shared.asking_for(metric), batch, examples)
            if shared is not None:
                shared.forget()
    if batch is None:
        raise ValueError("there are no batches to measure on: the iterable was empty (used up?)")
    values: dict[str, float] = {}
    for metric in running:
        for name, value in metric.values().items():
            if name in values:
                raise ValueError(f"{metric!r} and a metric before it both report {name!r}; name one of them otherwise")
            values[name] = value
    return values


def describe(metrics: Iterable[Metric], names: Iterable[str]) -> tuple[Quantity, ...]:
    """What ``metrics`` say of the quantities ``names``, in that order; of one that they do not know only its name."""
    known = {quantity.name: quantity for metric in metrics for quantity in metric.quantities()}
    return tuple(known.get(name, Quantity(name, name)) for name in names)
