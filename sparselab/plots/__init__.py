"""Figures from frames: pure functions, one style, colours that survive colour blindness and grey print."""

from __future__ import annotations

from sparselab.plots.columns import require_columns
from sparselab.plots.comparisons import accuracy_bars, pareto, recompute_curves
from sparselab.plots.layers import efficacy_by_layer, error_by_layer, loss_by_layer
from sparselab.plots.rooflines import roofline
from sparselab.plots.searches import search_pareto, search_traces

__all__ = [
    "accuracy_bars",
    "efficacy_by_layer",
    "error_by_layer",
    "loss_by_layer",
    "pareto",
    "recompute_curves",
    "require_columns",
    "roofline",
    "search_pareto",
    "search_traces",
]
