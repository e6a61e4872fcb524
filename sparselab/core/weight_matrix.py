"""Weight tensor <-> weight matrix (rows x input channels), for every layer type.

``channel_dim`` says where the matrices lie in a weight of three or more dimensions. 0 or 1, counted
from the front: in the first two, and those behind are kernel positions. -1 or -2, counted from the
back: in the last two, and those before number matrices of their own, as packed experts
``(experts, outputs, channels)`` (-1) or ``(experts, channels, outputs)`` (-2) have them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparselab.core.experts import expert_channel_dim

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def to_slices(weight: Tensor, channel_dim: int = 1) -> Tensor:
    """``weight`` as ``(positions, outputs, channels)``: one matrix for every kernel position or expert.

    A Linear weight has one position, a ``(K, C, 3, 3)`` convolution nine, packed experts as many as
    there are. ``channel_dim`` is the dimension of the input channels: 1 for Linear and Conv, 0 for
    transposed convolutions and the ``Conv1D`` of GPT-2, -1 or -2 for packed experts. A vector
    becomes one row. The result is a view where strides allow it, else a copy. Raises ``ValueError``
    for a scalar and for a ``channel_dim`` out of range.

    >>> to_slices(torch.empty(4, 16, 8), channel_dim=-1).shape
    torch.Size([4, 16, 8])
    """
    if weight.ndim == 0:
        raise ValueError("a weight needs at least one dimension, got a scalar")
    if weight.ndim == 1:
        return weight[None, None]
    if not -weight.ndim <= channel_dim < weight.ndim:
        raise ValueError(f"channel_dim={channel_dim} is out of range for a weight of shape {tuple(weight.shape)}")
    positions, output_dim, channel_dim = matrix_dims(weight.ndim, channel_dim)
    slices = weight.permute(*positions, output_dim, channel_dim)
    return slices.reshape(slices.shape[:-2].numel(), weight.shape[output_dim], weight.shape[channel_dim])


def from_slices(slices: Tensor, shape: torch.Size, channel_dim: int = 1) -> Tensor:
    """The inverse of ``to_slices``: a tensor of ``shape``, a view where strides allow it."""
    if len(shape) == 1:
        return slices.reshape(shape)
    positions, output_dim, channel_dim = matrix_dims(len(shape), channel_dim)
    dims = [*positions, output_dim, channel_dim]
    inverse = sorted(range(len(dims)), key=dims.__getitem__)
    return slices.reshape([shape[dim] for dim in dims]).permute(inverse)


def matrix_dims(ndim: int, channel_dim: int) -> tuple[list[int], int, int]:
    """The dimensions of positions, of the outputs and of the input channels, counted from the front.

    >>> matrix_dims(4, 1), matrix_dims(3, -1), matrix_dims(3, -2)
    (([2, 3], 0, 1), ([0], 1, 2), ([0], 2, 1))
    """
    channels = channel_dim % ndim
    pair = (ndim - 2, ndim - 1) if is_packed(ndim, channel_dim) else (0, 1)
    outputs = pair[1] if channels == pair[0] else pair[0]
    return [dim for dim in range(ndim) if dim not in (outputs, channels)], outputs, channels


def is_packed(ndim: int, channel_dim: int) -> bool:
    """Whether the leading dimensions of a weight number matrices of their own."""
    return ndim > 2 and (channel_dim in (-1, -2) or channel_dim == ndim - 1)


def turned(ndim: int, channel_dim: int) -> int:
    """The ``channel_dim`` of the same matrices transposed: their outputs are the channels."""
    outputs = matrix_dims(ndim, channel_dim)[1]
    return outputs - ndim if is_packed(ndim, channel_dim) else outputs


def to_matrix(weight: Tensor, channel_dim: int = 1) -> Tensor:
    """The weight matrix ``(rows, channels)``; rows run over kernel positions, then output channels.

    >>> to_matrix(torch.empty(16, 8, 3, 3)).shape
    torch.Size([144, 8])
    """
    slices = to_slices(weight, channel_dim)
    return slices.reshape(slices.shape[0] * slices.shape[1], slices.shape[2])


def from_matrix(matrix: Tensor, shape: torch.Size, channel_dim: int = 1) -> Tensor:
    """The inverse of ``to_matrix``: a tensor of ``shape``."""
    return from_slices(matrix, shape, channel_dim)


def is_gpt2_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is GPT-2's transposed Linear, which ``transformers`` calls ``Conv1D``."""
    return any(
        cls.__name__ == "Conv1D" and cls.__module__ == "transformers.pytorch_utils" for cls in type(module).__mro__
    )


def channel_dim_of(module: nn.Module, name: str) -> int | None:
    """The input-channel dimension of ``module``'s own parameter ``name``; ``None`` where none is known.

    It is negative for packed experts, whose matrices lie in the last two dimensions.

    >>> channel_dim_of(nn.ConvTranspose2d(4, 8, 3), "weight"), channel_dim_of(nn.Linear(4, 8), "bias")
    (0, None)
    """
    if isinstance(module, nn.MultiheadAttention):
        return 1 if name in _ATTENTION_WEIGHTS else None
    if (packed := expert_channel_dim(module, name)) is not None:
        return packed
    if name != "weight":
        return None
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return 1
    if isinstance(module, _TRANSPOSED) or is_gpt2_conv1d(module):
        return 0
    return None
