"""What a task is: a network, data, a loss, measures and a recipe. One frozen dataclass that fits in a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

Batch: TypeAlias = Any
"""What ``loss`` and ``metrics`` take beside the model: for the built-in tasks ``(inputs, labels)``, or a dict."""


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
    """How to train: ``optimizer`` (``"sgd,0.1"``, ``"adamw,lr=0.001"``), how its learning rate moves over the run
    (``"constant"``, ``"linear"``, ``"cosine"``, each after ``warmup`` of the run), for how many epochs, in what batches.
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


def logits_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """``(logits, labels)`` of ``(inputs, labels)``, or of a dict with ``labels`` (Hugging Face models)."""
    if isinstance(batch, Mapping):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return model(**inputs).logits, batch["labels"]
    inputs, labels = batch
    return model(inputs), labels


def classification_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy."""
    logits, labels = logits_of(model, batch)
    return F.cross_entropy(logits, labels)


def classification_metrics(model: nn.Module, batch: Batch) -> dict[str, float]:
    """``top1`` in percent and ``loss``, means over the batch."""
    logits, labels = logits_of(model, batch)
    right = (logits.argmax(1) == labels).double().mean()
    return {"top1": 100 * float(right), "loss": float(F.cross_entropy(logits.detach().double(), labels))}


@dataclass(frozen=True, eq=False)
class Task:
    """A network to make sparse, and all that it takes to train and to judge it.

    ``model()`` makes a fresh network (seeded by the caller), ``loss(model, batch)`` a scalar tensor,
    ``metrics(model, batch)`` means over the batch by name; ``top1`` (percent) is what tables and sweeps look for.
    ``augment(batch, generator)``, where given, changes training batches. ``recipe`` trains the dense network, ``finetuning``
    the pruned one (``None``: the same recipe again, as ASP's authors advise). ``include`` are the layers to prune (names,
    ``*`` allowed; ``None``: all that fit). Change ``version`` when a change should make cached baselines anew.

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.randn(8, 16), torch.randint(4, (8,)))
    >>> task = Task("mine", lambda: nn.Linear(16, 4), data, data, example_inputs=torch.randn(1, 16))
    >>> task.finetuning_recipe == Recipe()
    True
    """

    name: str
    model: Callable[[], nn.Module]
    train_data: Data
    eval_data: Data
    loss: Callable[[nn.Module, Batch], Tensor] = classification_loss
    metrics: Callable[[nn.Module, Batch], Mapping[str, float]] = classification_metrics
    example_inputs: Any = None
    recipe: Recipe = Recipe()
    finetuning: Recipe | None = None
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    include: tuple[str, ...] | None = None
    version: str = "1"

    @property
    def finetuning_recipe(self) -> Recipe:
        """``finetuning``, or ``recipe`` where there is none."""
        return self.finetuning or self.recipe
