"""What the masks retain, layer by layer, while weights move."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sparselab.core import measures
from sparselab.core.sharding import whole
from sparselab.trackers.tracker import Tracker
from sparselab.training.sparsifier import Sparsifier


class MagnitudeTracker(Tracker):
    """Retained magnitude of every sparse layer every ``every`` steps.

    Columns: ``layer``; ``total``, the sum of ``|w|`` with kept pruned values back; ``retained`` by the mask of the
    moment; ``fresh``, what a mask computed now would retain (by the Sparsifier's own saliency); ``lost_percent``.
    Before masks are computed ``retained`` is ``total``, and ``fresh`` says what pruning would leave.
    """

    columns = ("layer", "total", "retained", "fresh", "lost_percent")

    def __init__(self, sparsifier: Sparsifier, every: int | Collection[int] = 100) -> None:
        super().__init__(every)
        self.sparsifier = sparsifier

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """One row per layer."""
        weights = self.sparsifier.weights
        for layer in weights.layers:
            dense = weights.dense(layer)
            scores = dense.abs()
            total = float(scores.double().sum())
            retained = measures.retained(scores, whole(self.sparsifier.masks[layer.name]))
            yield {
                "layer": layer.name,
                "total": total,
                "retained": retained,
                "fresh": measures.retained(scores, weights.new_mask(layer, dense)),
                "lost_percent": measures.lost_percent(retained, total),
            }
