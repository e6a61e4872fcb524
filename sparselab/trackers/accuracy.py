"""How good the model is on held-out batches while it trains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from sparselab.core.models import as_module, device_of, to_device
from sparselab.metrics import CrossEntropy, Top1, TopK, measure
from sparselab.metrics.classification import split
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
        self.model, self.batches, self.k = as_module(model, "AccuracyTracker"), batches, k
        self.metrics = (Top1(), TopK(k), CrossEntropy())
        self.columns = tuple(metric.name for metric in self.metrics)

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """One pass over the batches. Raises ``ValueError`` where they are used up, or the model's answer has no logits."""
        device = device_of(self.model)
        batches = ((to_device(batch, device), len(split(batch)[1])) for batch in self.batches)
        with as_in_evaluation(self.model):
            yield measure(self.metrics, self.model, batches)


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
