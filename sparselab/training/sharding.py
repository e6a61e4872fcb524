"""What wrappers do to weights that have masks, and which of them masks can live with."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from sparselab.core.layers import LayerWeight
from sparselab.core.readable import FLATTENED, why_unreadable
from sparselab.core.sharding import is_flattened, reshard
from sparselab.training.masked import mask_buffer


def ready_for_masks(model: nn.Module, layers: Iterable[LayerWeight]) -> None:
    """Have ``model`` hold the weights that an optimizer moves, each as its mask is.

    Those that FSDP2 has gathered for a forward pass are sharded again. Raises ``ValueError`` for
    one of ``layers`` that FSDP1 has flattened, that is no longer a parameter, cannot be read, or
    has another shape than its mask.
    """
    reshard(model)
    for layer in layers:
        reason = _why_not_as_masked(layer)
        if reason is not None:
            raise ValueError(f"{layer.name!r} has a mask, but is {reason}")


def _why_not_as_masked(layer: LayerWeight) -> str | None:
    if is_flattened(layer.weight):
        return f"{FLATTENED}; finalize() before FSDP1 takes a pruned model that stays as it is"
    if layer.attribute not in layer.module._parameters:
        return (
            "no longer a parameter of its layer (parametrised, or replaced): finalize() before, "
            "and make a new Sparsifier afterwards"
        )
    reason = why_unreadable(layer.weight, layer.module)
    if reason is not None:
        return f"{reason}; finalize() and make a new Sparsifier"
    mask = getattr(layer.module, mask_buffer(layer))
    if mask.shape != layer.weight.shape:
        return (
            f"now of shape {tuple(layer.weight.shape)}, its mask of {tuple(mask.shape)}: finalize() "
            "before weights are cut or replaced, and make a new Sparsifier afterwards"
        )
    return None


def require_steps(optimizer: Optimizer) -> None:
    """Raise ``ValueError`` for an optimizer whose steps no hook sees."""
    if getattr(optimizer, "_overlap_with_ddp", False):
        raise ValueError(
            f"{type(optimizer).__name__}(overlap_with_ddp=True) moves weights inside backward(), "
            "where no mask can be kept: leave overlap_with_ddp at False"
        )
