"""Any layer as a matrix product: its weight as rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparselab.core.weight_matrix import is_packed


def to_rows(weight: Tensor, channel_dim: int = 1, groups: int = 1) -> Tensor:
    """``weight`` as ``(groups, outputs, columns)``: each output is a row times what the layer sees.

    Columns run over the input channels of the group, then over the kernel's positions, in the order
    of the weight itself: for ``channel_dim=1`` the rows are those of ``weight.flatten(1)``, for
    ``channel_dim=0`` (transposed convolutions, the ``Conv1D`` of GPT-2) of
    ``weight.transpose(0, 1).flatten(1)``, for each of the ``groups`` of the first dimension. Packed
    experts (-1, -2) are groups of which each has its matrix in the last two dimensions. A view
    where strides allow it. Raises ``ValueError`` when the groups do not divide the first dimension.

    >>> import torch
    >>> to_rows(torch.empty(8, 3, 5, 5), groups=2).shape
    torch.Size([2, 4, 75])
    """
    return _by_group(weight, channel_dim, groups).flatten(2)


def from_rows(rows: Tensor, shape: Sequence[int], channel_dim: int = 1) -> Tensor:
    """The inverse of ``to_rows``: a weight of ``shape``."""
    groups, outputs, _ = rows.shape
    if is_packed(len(shape), channel_dim):
        return rows if channel_dim == -1 else rows.transpose(1, 2)
    channels = shape[1] if channel_dim else shape[0] // groups
    matrices = rows.reshape(groups, outputs, channels, *shape[2:])
    return (matrices if channel_dim else matrices.transpose(1, 2)).flatten(0, 1)


def columns_of(shape: Sequence[int], channel_dim: int, groups: int) -> int:
    """How many columns the rows of a weight of ``shape`` have."""
    if is_packed(len(shape), channel_dim):
        return shape[channel_dim]
    columns = shape[1] if channel_dim else shape[0] // groups
    for size in shape[2:]:
        columns *= size
    return columns


def first_output(weight: Tensor, channel_dim: int, groups: int) -> Tensor:
    """The first row of each group, ``(groups, columns)``; no other is read."""
    return _by_group(weight, channel_dim, groups)[:, 0].flatten(1)


def _by_group(weight: Tensor, channel_dim: int, groups: int) -> Tensor:
    """A view ``(groups, outputs, channels, *kernel)``."""
    if weight.shape[0] % groups:
        raise ValueError(f"{groups} groups do not divide a weight of shape {tuple(weight.shape)}")
    if is_packed(weight.ndim, channel_dim):
        return weight if channel_dim == -1 else weight.transpose(1, 2)
    matrices = weight.reshape(groups, -1, *weight.shape[1:])
    return matrices if channel_dim else matrices.transpose(1, 2)
