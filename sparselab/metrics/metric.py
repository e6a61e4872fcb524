"""What a metric is: a name, which way is better, sums over batches, and the number that they make."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

Batch: TypeAlias = Any
"""What losses and metrics take beside the model: ``(inputs, labels)``, a dict with ``labels``, or what you like."""


@dataclass(frozen=True)
class Quantity:
    """A number that is measured, as tables and figures need to know it.

    ``label`` is what figures call it (default: its name). ``higher_is_better`` is ``None`` where nobody has said, and
    then nothing is called the best.

    >>> Quantity("perplexity", higher_is_better=False).better(9.5, than=11.0)
    True
    """

    name: str
    label: str = ""
    higher_is_better: bool | None = None

    def better(self, value: float, *, than: float) -> bool | None:
        """Whether ``value`` is better than another; ``None`` where nobody has said which way is."""
        if self.higher_is_better is None:
            return None
        return value > than if self.higher_is_better else value < than


class Metric(ABC):
    """One number that says how good a model is, summed up over batches of any size.

    A metric extends this class with ``name``, ``higher_is_better``, ``update`` and ``compute``; ``Mean`` has the last
    two for whatever is a mean. An object takes part in one measurement only, so what a ``Task`` holds is copied first
    (``copy.deepcopy``) and never updated itself.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What columns are called: a Python name."""

    @property
    @abstractmethod
    def higher_is_better(self) -> bool | None:
        """The direction: ``True`` for an accuracy, ``False`` for a loss, ``None`` where nobody can say."""

    @property
    def label(self) -> str:
        """What figures call it, with its unit."""
        return self.name

    @abstractmethod
    def update(self, model: nn.Module, batch: Batch) -> None:
        """Take one batch into account. Leave the model's answer as it is: other metrics look at the same tensors."""

    @abstractmethod
    def compute(self) -> float:
        """The number over all batches so far."""

    def observe(self, model: nn.Module, batch: Batch, examples: int) -> None:
        """``update`` with a batch of so many ``examples``, for a metric that cannot count them itself."""
        self.update(model, batch)

    def values(self) -> Mapping[str, float]:
        """``compute()`` under its name; several numbers where one pass makes several (``Means``)."""
        return {self.name: self.compute()}

    def quantities(self) -> tuple[Quantity, ...]:
        """What can be said of ``values`` before anything is measured."""
        return (Quantity(self.name, self.label, self.higher_is_better),)

    def identity(self) -> list[Any]:
        """What tells this metric from another: its class with its code, and its options. ``digest`` takes it."""
        code = [
            (name, getattr(member, "fget", member))
            for kind in type(self).__mro__
            if issubclass(kind, Metric) and kind is not Metric
            for name, member in vars(kind).items()
            if isinstance(member, (types.FunctionType, property))
        ]
        return [type(self).__module__, type(self).__qualname__, self.name, code, vars(self)]


class Mean(Metric):
    """A metric that is a mean over the examples (or tokens) of all batches.

    Its ``sums`` over every batch are divided by how many examples (or tokens) there were. Right for
    batches of different sizes, and for batches with different numbers of tokens.

    >>> class MeanError(Mean):
    ...     name, higher_is_better = "error", False
    ...
    ...     def sums(self, model, batch):
    ...         inputs, targets = batch
    ...         return float((model(inputs) - targets).abs().sum()), len(targets)
    """

    total: float = 0.0
    count: int = 0

    @abstractmethod
    def sums(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """The sum over the batch, and over how many examples or tokens it goes."""

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Add the batch's sums."""
        total, count = self.sums(model, batch)
        self.total, self.count = self.total + total, self.count + count

    def compute(self) -> float:
        """The mean. Raises ``ValueError`` where nothing was counted."""
        if not self.count:
            raise ValueError(f"metric {self.name!r} has seen nothing that counts: were there no labels?")
        return self.total / self.count


MetricFunction: TypeAlias = Callable[[nn.Module, Batch], Mapping[str, float]]


class Means(Metric):
    """What a ``function(model, batch)`` says of a batch, ``{name: mean over the batch}``, as means over the examples.

    Its first name is the headline. Nobody knows which way is better unless ``higher_is_better`` says so by name:
    ``Means(function, {"accuracy": True, "loss": False})``.
    """

    def __init__(
        self,
        function: MetricFunction,
        higher_is_better: Mapping[str, bool] | None = None,
    ) -> None:
        self.function = function
        self.directions = dict(higher_is_better or {})
        self.sums: dict[str, float] = {}
        self.examples = 0

    @property
    def name(self) -> str:
        """The first name that the function returns; before it has returned one, the first that has a direction."""
        names = [*self.sums, *self.directions]
        return names[0] if names else str(getattr(self.function, "__name__", type(self.function).__name__))

    @property
    def higher_is_better(self) -> bool | None:
        """The direction of the first name."""
        return self.directions.get(self.name)

    def update(self, model: nn.Module, batch: Batch) -> None:
        """As ``observe``, each batch counting as one example."""
        self.observe(model, batch, 1)

    def observe(self, model: nn.Module, batch: Batch, examples: int) -> None:
        """Add the batch's means, as often as it has examples."""
        for name, value in self.function(model, batch).items():
            self.sums[name] = self.sums.get(name, 0.0) + value * examples
        self.examples += examples

    def compute(self) -> float:
        """The mean of the first name."""
        return self.values()[self.name]

    def values(self) -> Mapping[str, float]:
        """The mean of every name."""
        return {name: total / self.examples for name, total in self.sums.items()}

    def quantities(self) -> tuple[Quantity, ...]:
        """Those that have a direction."""
        return tuple(Quantity(name, name, direction) for name, direction in self.directions.items())

    def identity(self) -> list[Any]:
        """The function's code and the directions."""
        return ["means", self.function, self.directions]

    def __deepcopy__(self, memo: dict[int, Any]) -> Means:
        """Sums of its own; the function, and what belongs to it, is shared."""
        copied = Means(self.function, self.directions)
        copied.sums, copied.examples = dict(self.sums), self.examples
        return copied


Metrics: TypeAlias = Metric | MetricFunction | Iterable[Metric | MetricFunction]
"""What says how good a model is: one metric or several, or a function of means (``Means``)."""


def as_metrics(given: Metrics) -> tuple[Metric, ...]:
    """``given`` as metrics, functions as ``Means``; the first is the headline.

    Raises ``ValueError`` where there is none, something else, or two of one name.

    >>> [metric.name for metric in as_metrics(Means(lambda model, batch: {"f1": 0.5}, {"f1": True}))]
    ['f1']
    """
    several = list(given) if isinstance(given, Iterable) else [given]
    wrong = [
        each for each in several if not isinstance(each, Metric) and (isinstance(each, type) or not callable(each))
    ]
    if wrong or not several:
        raise ValueError(
            f"metrics={given!r}: give a Metric, a function (model, batch) -> dict of means, or several of them"
        )
    metrics = tuple(each if isinstance(each, Metric) else Means(each) for each in several)
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics={names}: two metrics of one name cannot be told apart in a table")
    return metrics
