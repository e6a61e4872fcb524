"""The numbers that a report reads."""

from __future__ import annotations

from torch import Tensor

from sparselab.core.layers import LayerWeight
from sparselab.core.readable import why_unreadable
from sparselab.core.sharding import whole


def values_of(layer: LayerWeight) -> Tensor | None:
    """The weight of ``layer``, detached, and whole where it is sharded; ``None`` where it cannot be read."""
    return whole(layer.weight.detach()) if why_unreadable(layer.weight, layer.module) is None else None
