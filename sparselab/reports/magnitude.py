"""What a pattern would cost every layer of a model."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sparselab import saliency as saliency_module
from sparselab.core import measures
from sparselab.core.layers import LayerWeight, layer_weights
from sparselab.core.readable import require_some_values, shape_of
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks import AnyPattern, MaskCalculator, calculator, create_mask
from sparselab.masks.eligibility import why_not
from sparselab.reports.values import values_of
from sparselab.saliency import ModelSaliency


def magnitude_report(
    model: nn.Module, pattern: AnyPattern, *, saliency: ModelSaliency = "magnitude", rule: str = "divisible"
) -> pd.DataFrame:
    """What ``pattern`` would keep of every layer: one row per layer, in the order of the modules. Changes nothing.

    Columns: ``layer, type, shape, rows, channels, weights, eligible, reason, total, retained, ideal, lost_percent``.
    ``reason`` says why a layer is not eligible; its ``retained, ideal, lost_percent`` are NaN. ``total`` is the sum
    of the saliency, ``ideal`` what the best share of each row without structure would retain.
    ``frame.attrs["whole_model"]`` has the sums over the eligible layers and the share of weights that they hold.
    ``saliency`` may be a mapping from weight name to saliency. A weight that cannot be read (quantised, offloaded, not
    loaded yet) has a row with the reason, and its ``total`` is NaN too. One that is sharded (``DTensor``) is gathered,
    so every process has to call this. Raises ``ValueError`` naming the layer for weights that are not finite, and where
    no weight is there yet (lazy layers, the meta device).

    >>> magnitude_report(nn.Linear(8, 4), "2:4")[["layer", "channels", "eligible"]].to_dict("records")
    [{'layer': 'weight', 'channels': 8, 'eligible': True}]
    """
    calculate = calculator(pattern)
    layers = list(layer_weights(model))
    require_some_values(layers)
    rows = [_row(layer, calculate, saliency, rule) for layer in layers]
    frame = pd.DataFrame(rows, columns=_COLUMNS).astype({"eligible": bool})
    frame["lost_percent"] = measures.lost_percent(frame["retained"], frame["total"])
    frame.attrs = {"pattern": str(calculate), "whole_model": _whole_model(frame)}
    return frame


_COLUMNS = [
    *("layer", "type", "shape", "rows", "channels", "weights", "eligible", "reason"),
    *("total", "retained", "ideal"),
]


def _row(layer: LayerWeight, calculate: MaskCalculator, saliency: ModelSaliency, rule: str) -> tuple[Any, ...]:
    """What ``_COLUMNS`` say of one layer."""
    reason = why_not(layer.module, layer.attribute, calculate, rule)
    weight = values_of(layer)
    if weight is None:
        return (layer.name, type(layer.module).__name__, *_size(layer), False, reason or "", *[float("nan")] * 3)
    criterion = "magnitude" if reason else saliency_module.for_layer(saliency, layer.name)
    scores = saliency_module.scores(weight, criterion)
    matrix = to_matrix(scores, layer.channel_dim)
    kept = (float("nan"),) * 2 if reason else _kept(layer, weight, scores, calculate)
    total = float(matrix.sum(dtype=torch.float64))
    return (layer.name, type(layer.module).__name__, *_size(layer), reason is None, reason or "", total, *kept)


def _size(layer: LayerWeight) -> tuple[tuple[int, ...], int, int, int]:
    """Shape, rows, channels and number of weights, of values that need not be there."""
    shape = shape_of(layer.weight)
    if not shape:
        return shape, 0, 0, 0
    rows, channels = to_matrix(torch.empty(shape, device="meta"), layer.channel_dim).shape
    return shape, rows, channels, rows * channels


def _kept(layer: LayerWeight, weight: Tensor, scores: Tensor, calculate: MaskCalculator) -> tuple[float, float]:
    """The saliency that the mask retains, and that the best share of every row would."""
    try:
        mask = create_mask(weight, calculate, channel_dim=layer.channel_dim, saliency=scores)
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r}: {error}") from error
    return measures.retained(scores, mask), measures.ideal(to_matrix(scores, layer.channel_dim), calculate.density)


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
