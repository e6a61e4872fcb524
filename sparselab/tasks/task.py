"""What a task is: a network, data, a loss, metrics and a recipe. One frozen dataclass that fits in a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from sparselab.metrics import Metric, measure
from sparselab.metrics.classification import CLASSIFICATION, logits_of
from sparselab.metrics.metric import Batch, Metrics, as_metrics


class Data(Protocol):
    """Examples in a fixed order. ``data[indices]`` is the batch of the examples at a 1-d int64 tensor of ``indices``.

    A ``torch.utils.data.TensorDataset`` is one; ``Collated`` makes one of any other data set.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Batch: ...


@dataclass(frozen=True, eq=False)
class Collated:
    """A map-style data set, its examples put together into batches by ``collate``."""

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Batch] = default_collate

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.collate([self.dataset[index] for index in indices.tolist()])


@dataclass(frozen=True)
class Recipe:
    """How to train.

    ``optimizer`` (``"sgd,0.1"``, ``"adamw,lr=0.001"``), how its learning rate
    moves over the run (``"constant"``, ``"linear"``, ``"cosine"``, each after ``warmup`` of the
    run), for how many epochs, in what batches.
    """

    optimizer: str = "sgd,0.1"
    learning_rate: str = "cosine"
    epochs: float = 1.0
    batch_size: int = 64
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or not 0 <= self.warmup <= 1:
            raise ValueError(f"{self}: epochs must be at least 0, batch_size at least 1, warmup from 0 to 1")

    def steps(self, examples: int) -> int:
        """Optimizer steps in a run over ``examples`` (the last batch of an epoch may be short).

        >>> Recipe(epochs=2, batch_size=64).steps(1000)
        32
        """
        return round(self.epochs * -(-examples // self.batch_size))


def classification_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy."""
    logits, labels = logits_of(model, batch)
    return F.cross_entropy(logits, labels)


def classification_metrics(model: nn.Module, batch: Batch) -> dict[str, float]:
    """``CLASSIFICATION`` over one batch."""
    return measure(CLASSIFICATION, model, [(batch, 1)])


def unlabelled(batch: Batch) -> Any:
    """What the model itself takes of a batch ``(inputs, labels)``, or of a dict with ``labels``."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}
    return batch[0]


@dataclass(frozen=True, eq=False)
class Task:
    """A network to make sparse, and all that it takes to train and to judge it.

    ``model()`` makes a fresh network (seeded by the caller), ``loss(model, batch)`` a scalar
    tensor, ``metrics`` say how good it is; the first is the headline, which tables, sweeps and
    figures are about. Beside metrics (one or several) a function
    ``(model, batch) -> {name: mean over the batch}`` will do (``Means``).
    ``augment(batch, generator)``, where given, changes training batches. ``recipe`` trains the
    dense network, ``finetuning`` the pruned one (``None``: the same recipe again, as ASP's authors
    advise). ``include`` are the layers to prune (names, ``*`` allowed; ``None``: all that fit).
    ``evaluation_batch`` is how many examples are judged at a time. Where ``calibration`` is a number,
    trials prune block by block (``sl.prune``) on so many training examples. ``protocol``, a frozen
    dataclass, says what a number means; its fields stand in every row of a sweep.
    Change ``version`` when a change should make cached baselines anew. Raises ``ValueError`` for
    ``metrics`` that are none, or two of one name.

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.randn(8, 16), torch.randint(4, (8,)))
    >>> task = Task("mine", lambda: nn.Linear(16, 4), data, data, example_inputs=torch.randn(1, 16))
    >>> task.headline.name, task.headline.higher_is_better, task.finetuning_recipe == Recipe()
    ('top1', True, True)
    """

    name: str
    model: Callable[[], nn.Module]
    train_data: Data = field(repr=False)
    eval_data: Data = field(repr=False)
    loss: Callable[[nn.Module, Batch], Tensor] = classification_loss
    metrics: Metrics = CLASSIFICATION
    example_inputs: Any = field(default=None, repr=False)
    recipe: Recipe = Recipe()
    finetuning: Recipe | None = None
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    include: tuple[str, ...] | None = None
    version: str = "1"
    evaluation_batch: int = 250
    calibration: int | None = None
    protocol: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.metrics, Iterable):  # a generator would be used up by the first that asks
            object.__setattr__(self, "metrics", tuple(self.metrics))
        as_metrics(self.metrics)

    def calibration_batches(self, examples: int, seed: int = 0) -> list[Any]:
        """Training examples as the batches that the loss hands to the model, without labels.

        ``seed=0``: the first ones; any other: drawn at random. Raises ``ValueError`` when there are
        not so many.
        """
        total = len(self.train_data)
        if not 1 <= examples <= total:
            raise ValueError(f"calibration={examples}: task {self.name!r} has {total} examples to calibrate on")
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed)) if seed else torch.arange(total)
        size = min(64, self.evaluation_batch)
        return [unlabelled(self.train_data[part]) for part in torch.split(chosen[:examples], size)]

    @property
    def headline(self) -> Metric:
        """The metric that the task is about: the first."""
        return as_metrics(self.metrics)[0]

    @property
    def finetuning_recipe(self) -> Recipe:
        """``finetuning``, or ``recipe`` where there is none."""
        return self.finetuning or self.recipe
