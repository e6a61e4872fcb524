"""Accuracy on held-out batches while training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sparselab.trackers.tracker import Tracker, as_in_evaluation


class AccuracyTracker(Tracker):
    """Top-1, top-k and loss of ``model`` on ``batches`` every ``every`` steps.

    ``batches`` is a re-iterable of ``(inputs, labels)`` (a list, a ``DataLoader``). Columns: ``top1`` and ``topK``
    (percent), ``loss`` (mean cross-entropy). Loaders that shuffle draw random numbers: use one that does not.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        every: int | Collection[int] = 100,
        *,
        k: int = 5,
    ) -> None:
        super().__init__(every)
        if k < 2:
            raise ValueError(f"AccuracyTracker(k={k}): top-1 is always there; k must be at least 2")
        self.model, self.batches, self.k = model, batches, k
        self.columns = ("top1", f"top{k}", "loss")

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """One pass over the batches."""
        examples = first = among = 0
        loss = 0.0
        device = next(self.model.parameters()).device
        with as_in_evaluation(self.model):
            for inputs, labels in self.batches:
                logits, labels = self.model(inputs.to(device)), labels.to(device)
                best = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
                hits = best == labels[:, None]
                first += int(hits[:, 0].sum())
                among += int(hits.sum())
                loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
                examples += len(labels)
        if not examples:
            raise ValueError("AccuracyTracker has no batches to measure on: the iterable was empty (used up?)")
        yield {
            "top1": 100 * first / examples,
            f"top{self.k}": 100 * among / examples,
            "loss": loss / examples,
        }


class MetricsTracker(Tracker):
    """Any measures, every ``every`` steps: ``measure()`` returns a dict of numbers, whose keys are ``columns``."""

    def __init__(
        self, measure: Callable[[], Mapping[str, float]], columns: Iterable[str], every: int | Collection[int] = 100
    ) -> None:
        super().__init__(every)
        self.measure, self.columns = measure, tuple(columns)

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """What ``measure`` says now."""
        yield self.measure()
