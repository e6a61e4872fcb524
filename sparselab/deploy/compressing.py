"""From a weight that is N:M to its kept values and their places; ``core.compressed`` has the way back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparselab.core.compressed import Grid, packed_places
from sparselab.core.weight_matrix import to_slices
from sparselab.masks.calculator import groups
from sparselab.masks.one_d import OneD

_GROUPS_AT_ONCE = 1 << 20  # a multiple of 8, so that the places of every part end with a whole byte


def kept_values(weight: Tensor, grid: Grid) -> Tensor:
    """The ``grid.n`` values that each group of ``weight`` keeps, in order, on the CPU."""
    parts = [part[mask] for part, mask in _parts(weight, grid)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=weight.dtype)


def kept_places(weight: Tensor, grid: Grid) -> Tensor:
    """Where in the groups these values are, packed: uint8, on the CPU."""
    parts = [packed_places(mask, grid) for _, mask in _parts(weight, grid)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)


def kept_mask(slices: Tensor, n: int, m: int) -> Tensor:
    """``n`` of every ``m`` channels: all that are not zero, then zeros, the first of the last ``n`` places first.

    ``slices`` are ``(positions, outputs, channels)`` that are N:M, with channels a multiple of
    ``m``. Which zeros are kept is as PyTorch's semi-structured kernels have it.
    """
    channels = slices.shape[-1]
    free = (torch.arange(channels, device=slices.device) % m >= m - n).float()
    return OneD(n, m)((slices != 0) * 2.0 + free)


def _parts(weight: Tensor, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """The groups of ``weight`` and what each keeps, ``(groups, m)``, a part at a time."""
    rows = groups(to_slices(weight.detach().cpu(), grid.channel_dim), grid.m).reshape(-1, grid.m)
    for start in range(0, len(rows), _GROUPS_AT_ONCE):
        part = rows[start : start + _GROUPS_AT_ONCE]
        yield part, kept_mask(part.reshape(1, 1, -1), grid.n, grid.m).reshape(part.shape)
