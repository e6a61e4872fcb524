"""Metrics of networks that choose one of several classes: for an example, or for each of its tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from sparselab.metrics.metric import Batch, Mean, Metric

IGNORED = -100
"""The label of a position that does not count, as in ``torch.nn.functional.cross_entropy``."""


def logits_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """``(logits, labels)`` of ``(inputs, labels)``, or of a dict with ``labels`` (Hugging Face models)."""
    if isinstance(batch, Mapping):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        answer = model(**inputs)
        return getattr(answer, "logits", answer), batch["labels"]
    inputs, labels = batch
    return model(inputs), labels


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
