"""The weights that a report reads."""

from __future__ import annotations

from torch import Tensor, nn

from sparselab.core.layers import ModelWeight


def values_of(layer: ModelWeight) -> Tensor:
    """The weight of ``layer``, detached; ``ValueError`` naming it where it has no values yet."""
    weight = layer.weight
    if nn.parameter.is_lazy(weight):
        raise ValueError(f"layer {layer.name!r} is not initialised yet: run one forward pass first")
    if weight.is_meta:
        raise ValueError(f"layer {layer.name!r} is on the meta device, without values: load its weights first")
    return weight.detach()
