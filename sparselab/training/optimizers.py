"""Does an optimizer move the weights that are masked? What else could it be moving, if not?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.layers import LayerWeight, is_wrapped
from sparselab.core.optimizers import levels, parameters_of


def require_weights(optimizer: Any, model: nn.Module, layers: Sequence[LayerWeight]) -> None:
    """Raise ``ValueError`` if ``optimizer`` moves none of the masked weights, nor anything else of ``model``.

    One that moves other parameters of the model is one of several, or trains adapters beside frozen
    weights.
    """
    moved = _moved([optimizer])
    masked = [layer.weight for layer in layers]
    if not masked or _places(masked) & _places(moved):
        return
    known = _places(model.parameters())
    foreign = [tensor for tensor in moved if _place(tensor) not in known]
    if moved and not foreign:
        return
    names = ", ".join(layer.name for layer in layers[:3]) + (", ..." if len(layers) > 3 else "")
    raise ValueError(
        f"{type(optimizer).__name__} holds none of the {len(layers)} masked weights ({names}): "
        f"{_likely(masked, foreign)}"
    )


def not_moved(optimizers: Iterable[Any], layers: Iterable[LayerWeight]) -> list[str]:
    """The masked weights that train, as far as autograd knows, but that none of ``optimizers`` moves."""
    moved = _places(_moved(optimizers))
    return [layer.name for layer in layers if layer.weight.requires_grad and _place(layer.weight) not in moved]


def _likely(masked: Sequence[Tensor], foreign: Sequence[Tensor]) -> str:
    """Why an optimizer of ``foreign`` parameters may have been taken for one of ``masked`` ones, and the way out."""
    if not foreign:
        return "it has no parameters at all. Was the generator that it was made of used up before? Give it a list"
    alike = [tensor for tensor in foreign if any(tensor.shape == weight.shape for weight in masked)]
    if len({tuple(tensor.shape) for tensor in alike}) < len({tuple(weight.shape) for weight in masked}):
        return "it is the optimizer of another model. Make it of the parameters of the model that has the masks"
    dtypes = {tensor.dtype for tensor in alike}
    if not dtypes & {weight.dtype for weight in masked}:
        theirs, ours = sorted(map(str, dtypes))[0], str(masked[0].dtype)
        return (
            f"its tensors have the same shapes in {theirs.removeprefix('torch.')}, the weights are "
            f"{ours.removeprefix('torch.')}: master copies, from which the weights are filled after each step, "
            "zeros and all. Train the model's own parameters (autocast needs no copies), or make the Sparsifier "
            "for a model whose parameters are the master copies"
        )
    return (
        "it has tensors of the same shapes, but others: the model was copied (deepcopy), sharded or loaded after the "
        "optimizer was made, or the optimizer belongs to another copy. Make the optimizer of the parameters of the "
        "model that has the masks, as it is now"
    )


def _moved(optimizers: Iterable[Any]) -> list[Tensor]:
    """Every parameter that ``optimizers`` and those inside them hold."""
    return [parameter for each in optimizers for level in levels(each) for parameter in parameters_of(level)]


def _places(tensors: Iterable[Tensor]) -> set[int]:
    return {_place(tensor) for tensor in tensors}


def _place(tensor: Tensor) -> int:
    """The memory of a tensor: a flat buffer that an optimizer moves has the weights that lie in it."""
    if is_wrapped(tensor) or tensor.is_meta or tensor.numel() == 0 or tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.untyped_storage().data_ptr() or id(tensor)
