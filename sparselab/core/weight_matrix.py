"""Weight tensor <-> weight matrix (rows x input channels), for every layer type."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def to_slices(weight: Tensor, channel_dim: int = 1) -> Tensor:
    """``weight`` as ``(positions, outputs, channels)``: one matrix for every kernel position.

    A Linear weight has one position, a ``(K, C, 3, 3)`` convolution nine. ``channel_dim`` is the
    dimension of the input channels: 1 for Linear and Conv, 0 for transposed convolutions and the
    ``Conv1D`` of GPT-2. A vector becomes one row. The result is a view where strides allow it, else
    a copy. Raises ``ValueError`` for a scalar and for a ``channel_dim`` out of range.
    """
    if weight.ndim == 0:
        raise ValueError("a weight needs at least one dimension, got a scalar")
    if weight.ndim == 1:
        return weight[None, None]
    if not -weight.ndim <= channel_dim < weight.ndim:
        raise ValueError(f"channel_dim={channel_dim} is out of range for a weight of shape {tuple(weight.shape)}")
    channel_dim %= weight.ndim
    output_dim = 1 if channel_dim == 0 else 0
    positions = [dim for dim in range(weight.ndim) if dim not in (output_dim, channel_dim)]
    slices = weight.permute(*positions, output_dim, channel_dim)
    return slices.reshape(slices.shape[:-2].numel(), weight.shape[output_dim], weight.shape[channel_dim])


def from_slices(slices: Tensor, shape: torch.Size, channel_dim: int = 1) -> Tensor:
    """The inverse of ``to_slices``: a tensor of ``shape``, a view where strides allow it."""
    if len(shape) == 1:
        return slices.reshape(shape)
    channel_dim %= len(shape)
    output_dim = 1 if channel_dim == 0 else 0
    positions = [dim for dim in range(len(shape)) if dim not in (output_dim, channel_dim)]
    dims = [*positions, output_dim, channel_dim]
    inverse = sorted(range(len(dims)), key=dims.__getitem__)
    return slices.reshape([shape[dim] for dim in dims]).permute(inverse)


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
    """The input-channel dimension of ``module``'s own parameter ``name``; ``None`` for no weight.

    >>> channel_dim_of(nn.ConvTranspose2d(4, 8, 3), "weight"), channel_dim_of(nn.Linear(4, 8), "bias")
    (0, None)
    """
    if isinstance(module, nn.MultiheadAttention):
        return 1 if name in _ATTENTION_WEIGHTS else None
    if name != "weight":
        return None
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return 1
    if isinstance(module, _TRANSPOSED) or is_gpt2_conv1d(module):
        return 0
    return None
