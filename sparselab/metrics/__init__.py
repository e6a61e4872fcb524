"""Metrics: how good a model is, in numbers that know their direction and are right for ragged batches."""

from __future__ import annotations

from sparselab.metrics.classification import CrossEntropy, Top1, TopK
from sparselab.metrics.language import Divergence, Perplexity
from sparselab.metrics.measuring import describe, measure
from sparselab.metrics.metric import Mean, Means, Metric, Quantity

__all__ = [
    "CrossEntropy",
    "Divergence",
    "Mean",
    "Means",
    "Metric",
    "Perplexity",
    "Quantity",
    "Top1",
    "TopK",
    "describe",
    "measure",
]
