"""What a user gave as saliency, after the channels of a model were permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from sparselab.core.layers import LayerWeight
from sparselab.core.moves import Movable
from sparselab.saliency import ModelSaliency, for_layer

if TYPE_CHECKING:
    from sparselab.network.plan import Plan


def moved_saliency(saliency: ModelSaliency, layers: Sequence[LayerWeight], plan: Plan) -> ModelSaliency:
    """The ``saliency`` that fits the weights after ``plan``, where it was one for every layer too (``Plan.moved``)."""
    if not isinstance(saliency, (Mapping, Tensor, Movable)):
        return saliency  # a name or a function: it sees the weights as they are
    return plan.moved({layer.name: for_layer(saliency, layer.name) for layer in layers})
