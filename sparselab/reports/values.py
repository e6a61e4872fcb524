"""The numbers that a report reads."""

from __future__ import annotations

from torch import Tensor

from sparselab.core.layers import ModelWeight
from sparselab.core.sharding import whole


def values_of(layer: ModelWeight) -> Tensor:
    """The weight of ``layer``, which can be read, detached, and whole where it is sharded."""
    return whole(layer.weight.detach())
