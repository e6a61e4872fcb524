"""What a pattern would cost every layer of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor, nn

from sparselab import saliency as saliency_module
from sparselab.core import measures
from sparselab.core.layers import Custom, LayerWeight, ModelWeight, TiedWeight, model_weights
from sparselab.core.models import as_module
from sparselab.core.progress import late_bar
from sparselab.core.readable import require_some_values, shape_of, why_unreadable
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks import AnyPattern, MaskCalculator, calculator, create_mask
from sparselab.masks.eligibility import why_not_pruned
from sparselab.reports.values import values_of
from sparselab.saliency import ModelSaliency

Counted: TypeAlias = Callable[[int, int], object]
"""Is called after each weight with how many are done, and of how many."""


def magnitude_report(
    model: nn.Module,
    pattern: AnyPattern = "2:4",
    *,
    saliency: ModelSaliency = "magnitude",
    rule: str = "divisible",
    custom: Custom | None = None,
    callback: Counted | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What ``pattern`` would keep of every weight: one row per weight, in the order of the modules. Changes nothing.

    Weights are the floating-point parameters of two or more dimensions. Columns: ``layer, type, shape, rows,
    channels, weights, eligible, reason, total, retained, ideal, note, lost_percent``.
    ``reason`` says why a weight is not eligible; its ``retained, ideal, lost_percent`` are NaN, and where no layer is
    known to multiply it (an embedding, a raw parameter) so are ``rows`` and ``channels``. ``total`` is the sum
    of the saliency, ``ideal`` what the best share of each row without structure would retain, ``note`` and ``custom``
    are as in ``Sparsifier``.
    ``frame.attrs["whole_model"]`` has the sums over the eligible layers and the share of weights that they hold.
    ``saliency`` may be a mapping from weight name to saliency. A weight that cannot be read (quantised, offloaded, not
    loaded yet) has a row with the reason, and its ``total`` is NaN too. One that is sharded (``DTensor``) is gathered,
    so every process has to call this. A bar is shown after two seconds, if ``progress``; ``callback`` is called
    after each weight with how many are done, and of how many; what it raises ends the report. Raises ``ValueError`` naming the layer for weights that are not finite, and where
    no weight is there yet (lazy layers, the meta device).

    >>> magnitude_report(nn.Linear(8, 4), "2:4")[["layer", "channels", "eligible"]].to_dict("records")
    [{'layer': 'weight', 'channels': 8, 'eligible': True}]
    """
    as_module(model, "magnitude_report")
    calculate = calculator(pattern)
    weights = list(model_weights(model, custom))
    require_some_values(weights)
    rows = []
    for weight in late_bar("reading weights", "weight", weights, progress=progress):
        rows.append(_row(weight, calculate, saliency, rule))
        if callback is not None:
            callback(len(rows), len(weights))
    frame = pd.DataFrame(rows, columns=_COLUMNS).astype({"eligible": bool})
    frame["lost_percent"] = measures.lost_percent(frame["retained"], frame["total"])
    once = [not isinstance(weight, TiedWeight) for weight in weights]
    frame.attrs = {"pattern": str(calculate), "whole_model": _whole_model(frame[pd.Series(once, dtype=bool)])}
    return frame


_COLUMNS = [
    *("layer", "type", "shape", "rows", "channels", "weights", "eligible", "reason"),
    *("total", "retained", "ideal", "note"),
]


def _row(layer: ModelWeight, calculate: MaskCalculator, saliency: ModelSaliency, rule: str) -> tuple[Any, ...]:
    """What ``_COLUMNS`` say of one weight."""
    reason = why_not_pruned(layer, calculate, rule)
    kept, sizes, note = (float("nan"),) * 2, _matrix_shape(layer), ""
    total = float("nan")
    if isinstance(layer, LayerWeight):
        note = layer.note
    if why_unreadable(layer.weight, layer.module) is None:
        weight = values_of(layer)
        if isinstance(layer, LayerWeight):
            scores = saliency_module.layer_scores(weight, "magnitude" if reason else saliency, layer.name)
            kept = kept if reason else _kept(layer, weight, scores, calculate)
        else:
            scores = saliency_module.scores(weight)
        total = _total(scores, layer)
    shape = shape_of(layer.weight)
    size = (shape, *sizes, math.prod(shape) if shape else 0)
    return (layer.name, type(layer.module).__name__, *size, reason is None, reason or "", total, *kept, note)


def _total(scores: Tensor, layer: ModelWeight) -> float:
    matrix = to_matrix(scores, layer.channel_dim) if isinstance(layer, LayerWeight) else scores
    return float(matrix.sum(dtype=torch.float64))


def _matrix_shape(layer: ModelWeight) -> tuple[float, float]:
    """Rows and channels, of values that need not be there; NaN where they are not known."""
    shape = shape_of(layer.weight)
    if not isinstance(layer, LayerWeight):
        return float("nan"), float("nan")
    if len(shape) < 2:
        return (0, 0) if not shape else (1, shape[0])
    rows, channels = to_matrix(torch.empty(shape, device="meta"), layer.channel_dim).shape
    return rows, channels


def _kept(layer: LayerWeight, weight: Tensor, scores: Tensor, calculate: MaskCalculator) -> tuple[float, float]:
    """The saliency that the mask retains, and the ideal: that of the best share of every row, or of a freer mask itself."""
    try:
        mask = create_mask(weight, calculate, channel_dim=layer.channel_dim, saliency=scores)
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r}: {error}") from error
    retained = measures.retained(scores, mask)
    return retained, max(retained, measures.ideal(to_matrix(scores, layer.channel_dim), calculate.density))


def _whole_model(frame: pd.DataFrame) -> dict[str, float]:
    eligible = frame[frame["eligible"]]
    sums = {name: float(eligible[name].sum()) for name in ("total", "retained", "ideal")}
    return {
        "layers": len(frame),
        "eligible_layers": len(eligible),
        "weights": int(frame["weights"].sum()),
        "eligible_weights": int(eligible["weights"].sum()),
        **sums,
        "lost_percent": measures.lost_percent(sums["retained"], sums["total"]),
    }
