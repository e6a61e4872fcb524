"""Metrics of networks that choose one of several classes: for an example, or for each of its tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sparselab.core.models import running
from sparselab.metrics.metric import Batch, Mean, Metric

IGNORED = -100
"""The label of a position that does not count, as in ``torch.nn.functional.cross_entropy``."""


def logits_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """``(logits, labels)`` of ``(inputs, labels)``, or of a dict with ``labels`` (Hugging Face models).

    Inputs that are a mapping are keyword arguments; answers may have the logits as ``.logits``.
    Raises ``ValueError`` for other batches and answers, and ``CannotRunError`` where the model fails.
    """
    inputs, labels = split(batch)
    with running(model, "the inputs of a batch", _TAKES):
        answer = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = getattr(answer, "logits", answer)
    if not isinstance(logits, Tensor) or not _are_logits(logits, labels):
        raise ValueError(
            f"classes are chosen by logits (examples, classes, ...) for labels (examples, ...), here of shape "
            f"{tuple(labels.shape)}; the model answered {_described(logits)}: give a loss and metrics of "
            "your own, or a model that answers with logits"
        )
    if logits.is_meta:
        raise ValueError("the model answers on the meta device, without values: load its weights first")
    return logits, labels


_TAKES = "A batch is (inputs, labels), with inputs that model(inputs) takes, or a dict with labels"


def split(batch: Batch) -> tuple[Any, Tensor]:
    """The inputs and the labels of a batch; ``ValueError`` where it has not both."""
    if isinstance(batch, Mapping) and isinstance(batch.get("labels"), Tensor):
        return {key: value for key, value in batch.items() if key != "labels"}, batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise ValueError(f"{_TAKES}; got a {type(batch).__name__}")


def _are_logits(logits: Tensor, labels: Tensor) -> bool:
    """Whether there is a number for each of the classes, one at least, at each label.

    Labels may be probabilities of the classes too.
    """
    if logits.ndim < 2 or not logits.is_floating_point() or not logits.shape[1]:
        return False
    return (logits.shape[0], *logits.shape[2:]) == labels.shape or logits.shape == labels.shape


def _described(answer: object) -> str:
    if isinstance(answer, Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} of shape {tuple(answer.shape)}"
    return f"a {type(answer).__name__}"


def predicted(logits: Tensor) -> Tensor:
    """The class with the highest of the ``logits`` ``(examples, classes, ...)``, int64; the first of equals."""
    return logits.argmax(1)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the predicted class is the label, bool, of the labels' shape: what top-1 counts."""
    return predicted(logits) == labels


class _Percent(Mean):
    """The share, in percent, of the labels that ``hits`` says are met; those that are ``IGNORED`` do not count."""

    higher_is_better = True

    @abstractmethod
    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Which labels are met, bool, of the labels' shape."""

    def sums(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Hits and labels of a batch."""
        logits, labels = logits_of(model, batch)
        return int(self.hits(logits, labels).sum()), int((labels != IGNORED).sum())

    def compute(self) -> float:
        """Hits in percent of the labels."""
        return 100 * super().compute()


class Top1(_Percent):
    """How often the highest logit is the label's, in percent."""

    name = "top1"
    label = "top-1 (%)"

    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``correct``."""
        return correct(logits, labels)


class TopK(_Percent):
    """How often the label is among the ``k`` highest logits (all, where there are fewer classes), in percent."""

    def __init__(self, k: int = 5) -> None:
        if k < 2:
            raise ValueError(f"TopK(k={k}): k must be at least 2; for the highest logit alone use Top1()")
        self.k = k

    @property
    def name(self) -> str:
        """``top5`` for ``k=5``."""
        return f"top{self.k}"

    @property
    def label(self) -> str:
        """``top-5 (%)`` for ``k=5``."""
        return f"top-{self.k} (%)"

    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether any of the ``k`` classes is the label."""
        best = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
        return (best == labels.unsqueeze(1)).any(1)


class CrossEntropy(Mean):
    """Mean cross-entropy over the labels, in nats, in float64; those that are ``IGNORED`` do not count."""

    name = "loss"
    higher_is_better = False

    def sums(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Cross-entropy and labels of a batch."""
        logits, labels = logits_of(model, batch)
        total = F.cross_entropy(logits.detach().double(), labels, reduction="sum", ignore_index=IGNORED)
        return float(total), int((labels != IGNORED).sum())


CLASSIFICATION: tuple[Metric, ...] = (Top1(), CrossEntropy())
"""The metrics of a task that names none."""
