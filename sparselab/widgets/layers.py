"""What the widgets show of one layer: plain functions, no widget in sight."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparselab import saliency as saliency_module
from sparselab.core import measures
from sparselab.core.layers import LayerWeight, layer_weights
from sparselab.core.patterns import Pattern
from sparselab.core.readable import require_some_values, why_unreadable
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks import CALCULATORS, calculator, create_mask
from sparselab.masks.calculator import is_calculator
from sparselab.masks.eligibility import why_not
from sparselab.saliency import ModelSaliency

PATTERNS = (
    *("1:4", "2:4", "3:4", "1:8", "2:8", "4:8", "8:16"),
    *("m4n2_2d_best", "m4n2_2d_greedy", "m8n4_2d_greedy", "unstructured,0.5"),
)
"""What the widgets offer; any other pattern can be set on them."""


@dataclass(frozen=True, eq=False)
class MaskedLayer:
    """A layer's weight matrix ``weights`` ``(rows, channels)``, its ``mask``, and the saliency in all and retained."""

    name: str
    shape: tuple[int, ...]
    pattern: str
    m: int | None
    weights: NDArray[Any]
    mask: NDArray[np.bool_]
    total: float
    retained: float

    @property
    def lost_percent(self) -> float:
        """Saliency that the mask takes, in percent."""
        return measures.lost_percent(self.retained, self.total)


def pattern_text(pattern: str) -> str:
    """The text that widgets have for ``pattern``, which may name a plug-in's calculator with its options.

    Raises ``ValueError`` for a text that names no masks, and for an object, which no field can show.
    """
    if is_calculator(pattern):
        kind = type(pattern).__name__
        raise ValueError(
            f"widgets know patterns by name, got {reprlib.repr(pattern)}: "
            f'give it one, sparselab.masks.CALCULATORS.register("mine", {kind}), and pass "mine" with its options'
        )
    calculator(pattern)
    name, options = CALCULATORS.split(pattern)
    return ",".join([name, *options]) if name in CALCULATORS else str(Pattern.parse(pattern))


def require_names(kind: str, given: Iterable[object], registry: str) -> None:
    """Raise ``ValueError`` for what is no name with options: fields of widgets show texts."""
    for each in given:
        if not isinstance(each, str):
            raise ValueError(
                f"widgets know a {kind} by name, got {reprlib.repr(each)}: give it one, "
                f'{registry}.register("mine", TheClass), and pass "mine" with its options'
            )


def choosable_layers(model: nn.Module) -> dict[str, LayerWeight]:
    """The layers with more than one input channel, by the name of their weight; ``ValueError`` when there are none."""
    found = list(layer_weights(model))
    require_some_values(found)
    readable = [layer for layer in found if why_unreadable(layer.weight, layer.module) is None]
    layers = {layer.name: layer for layer in readable if layer.weight.shape[layer.channel_dim] > 1}
    if not layers:
        others = {why_unreadable(layer.weight, layer.module) for layer in found} - {None}
        raise ValueError(
            "the model has no Linear, convolution or attention layer with more than one input channel"
            + "".join(f"; others are {reason}" for reason in sorted(filter(None, others)))
        )
    return layers


def matrix_shape(layer: LayerWeight) -> tuple[int, int]:
    """Rows and channels of the weight of ``layer`` as a matrix."""
    channels = layer.weight.shape[layer.channel_dim]
    return layer.weight.numel() // channels, channels


def first_choice(layers: dict[str, LayerWeight], pattern: str) -> str:
    """The largest layer that ``pattern`` can prune, or the largest."""
    fitting = {name: layer for name, layer in layers.items() if why_not(layer.module, layer.attribute, pattern) is None}
    sizes = {name: layer.weight.numel() for name, layer in (fitting or layers).items()}
    return max(sizes, key=sizes.__getitem__)


@dataclass(frozen=True, eq=False)
class ScoredLayer:
    """A layer with its weight and scores on the CPU: what does not change from one pattern to the next."""

    layer: LayerWeight
    weight: Tensor
    scores: Tensor
    total: float
    by_magnitude: bool

    @classmethod
    def of(cls, layer: LayerWeight, saliency: ModelSaliency = "magnitude") -> ScoredLayer:
        """``layer`` scored by ``saliency``. The weight is a copy in float32: what it is now."""
        weight = layer.weight.detach().to("cpu", torch.float32, copy=True)
        chosen = saliency_module.for_layer(saliency, layer.name)
        scores = saliency_module.scores(weight, chosen)
        total = float(scores.numpy().sum(dtype=np.float64))
        return cls(layer, weight, scores, total, isinstance(chosen, str) and chosen == "magnitude")

    def masked(self, pattern: str) -> MaskedLayer:
        """The layer under ``pattern``. Raises ``ValueError`` with the reason when it cannot be pruned by it."""
        text, calculate, layer = pattern_text(pattern), calculator(pattern), self.layer
        reason = why_not(layer.module, layer.attribute, calculate)
        if reason is not None:
            raise ValueError(f"{layer.name} cannot be pruned to {text}: {reason}")
        saliency = "magnitude" if self.by_magnitude else self.scores  # scores that are given are checked again
        mask = create_mask(self.weight, calculate, channel_dim=layer.channel_dim, saliency=saliency)
        return MaskedLayer(
            name=layer.name,
            shape=tuple(self.weight.shape),
            pattern=text,
            m=None if calculate.nm is None else calculate.nm[1],
            weights=to_matrix(self.weight, layer.channel_dim).numpy(),
            mask=to_matrix(mask, layer.channel_dim).numpy(),
            total=self.total,
            retained=float(np.sum(self.scores.numpy(), where=mask.numpy(), dtype=np.float64)),
        )


def masked_layer(layer: LayerWeight, pattern: str, saliency: ModelSaliency = "magnitude") -> MaskedLayer:
    """``layer`` under ``pattern``. Raises ``ValueError`` with the reason when it cannot be pruned by it."""
    return ScoredLayer.of(layer, saliency).masked(pattern)


def described(view: MaskedLayer, saliency: str = "magnitude") -> str:
    """The numbers of ``view`` in a sentence."""
    what = "Σ|w|" if saliency == "magnitude" else f"Σ {saliency}"
    kept = int(view.mask.sum())
    return (
        f"{view.name}, {' x '.join(map(str, view.shape))}, seen as {view.weights.shape[0]} rows x "
        f"{view.weights.shape[1]} channels. {view.pattern} keeps {kept:,} of {view.mask.size:,} weights "
        f"and loses {view.lost_percent:.2f} % of {what}: {view.total - view.retained:,.2f} of {view.total:,.2f}."
    )
