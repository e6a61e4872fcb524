"""From a weight to its scores, whatever way they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from sparselab.core.readable import why_unreadable
from sparselab.saliency.names import check_name, from_weight

Saliency: TypeAlias = str | Callable[[Tensor], Tensor] | Tensor
ModelSaliency: TypeAlias = Saliency | Mapping[str, Saliency]
"""For whole models: one saliency for every layer, or one for each weight's name."""


def scores(weight: Tensor, saliency: Saliency = "magnitude") -> Tensor:
    """The scores of ``weight``: non-negative, of its shape, in a dtype that compares and sums.

    Raises ``ValueError`` for an unknown name (listing the valid ones), a name that needs data, what
    is no saliency at all, scores of another shape and negative or complex scores. NaN and infinity
    are left for the mask calculators to refuse.
    """
    if isinstance(weight, Tensor) and (reason := why_unreadable(weight)) is not None:
        raise ValueError(f"no scores can be made of a weight that is {reason}")
    if isinstance(saliency, str):
        return scores(computable(weight), from_weight(saliency))
    if isinstance(saliency, Mapping):
        raise ValueError(
            f"a mapping of {len(saliency)} names is a saliency for whole models; for one weight pass its own, "
            "saliency[its name]"
        )
    require_saliency(saliency)
    result = saliency if isinstance(saliency, Tensor) else saliency(weight)
    if not isinstance(result, Tensor):
        raise ValueError(f"saliency {saliency!r} returned {type(result).__name__}, not a tensor")
    if result.shape != weight.shape:
        raise ValueError(f"scores have shape {tuple(result.shape)}, the weight {tuple(weight.shape)}: they must agree")
    if result.is_complex():
        raise ValueError(f"scores have dtype {result.dtype}: complex numbers have no order; pass their absolute value")
    result = computable(result.detach())
    if result.numel() and bool((result < 0).any()):
        raise ValueError("scores must not be negative: a mask keeps the largest; pass their absolute value, or a rank")
    return result.to(weight.device)


def require_saliency(saliency: object) -> None:
    """Raise ``ValueError`` for what is no saliency, and no mapping to some: a name that is none, or another object."""
    if isinstance(saliency, str):
        check_name(saliency)
    elif not isinstance(saliency, (Mapping, Tensor)) and not callable(saliency):
        raise ValueError(
            f"a saliency is a name, a callable weight -> scores or a tensor of scores, got {type(saliency).__name__}"
        )


def computable(values: Tensor) -> Tensor:
    """``values`` in a dtype that PyTorch compares and sums.

    8-bit floats become float32, integers and bools float64.

    >>> import torch
    >>> computable(torch.tensor([1.5], dtype=torch.float8_e4m3fn)), computable(torch.tensor([True])).dtype
    (tensor([1.5000]), torch.float64)
    """
    if not values.is_floating_point():
        return values.double()
    return values.float() if values.dtype.itemsize == 1 else values


def for_layer(saliency: ModelSaliency, name: str) -> Saliency:
    """The saliency of the weight called ``name``; ``ValueError`` when a mapping has none for it."""
    if not isinstance(saliency, Mapping):
        return saliency
    if name not in saliency:
        raise ValueError(
            f"no saliency for weight {name!r}; the mapping has {len(saliency)} others. "
            "Was its layer reached by the data?"
        )
    return saliency[name]


def layer_scores(weight: Tensor, saliency: ModelSaliency, name: str) -> Tensor:
    """The scores of the ``weight`` called ``name`` in its model; ``ValueError`` naming it where there are none."""
    try:
        return scores(weight, for_layer(saliency, name))
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error
