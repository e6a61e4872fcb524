"""What a user gave as saliency, after the channels of a model were permuted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparselab.core.layers import LayerWeight
from sparselab.saliency import ModelSaliency, Ria, Wanda, for_layer

if TYPE_CHECKING:
    from sparselab.network.plan import Plan


def moved_saliency(saliency: ModelSaliency, layers: Sequence[LayerWeight], plan: Plan) -> ModelSaliency:
    """The ``saliency`` that fits the weights after ``plan``, where it was one for every layer too (``Plan.moved``)."""
    if isinstance(saliency, str) or (callable(saliency) and not isinstance(saliency, (Wanda, Ria))):
        return saliency
    return plan.moved({layer.name: for_layer(saliency, layer.name) for layer in layers})
