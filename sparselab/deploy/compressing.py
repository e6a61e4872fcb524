"""From a weight that is N:M to its kept values and their places; ``core.compressed`` has the way back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sparselab.core.compressed import Grid, counted, packed_places
from sparselab.core.weight_matrix import to_slices
from sparselab.masks.calculator import groups
from sparselab.masks.one_d import OneD

_GROUPS_AT_ONCE = 1 << 20  # a multiple of 8, so that the places of every part end with a whole byte


def kept_values(weight: Tensor, grid: Grid) -> Tensor:
    """The ``grid.n`` values that each group of ``weight`` keeps, in order, on the CPU."""
    parts = [part.reshape(-1)[torch.from_numpy(np.flatnonzero(mask.numpy()))] for part, mask in _parts(weight, grid)]
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
    rows = slices.reshape(-1, m)
    kept = rows != 0
    short = counted(kept) != n
    if bool(short.any()):
        free = (torch.arange(m, device=slices.device) >= m - n).float()
        kept[short] = OneD(n, m)((kept[short] * 2.0 + free).reshape(1, 1, -1)).reshape(-1, m)
    return kept.reshape(slices.shape)


def _parts(weight: Tensor, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """The groups of ``weight`` and what each keeps, ``(groups, m)``, a part at a time."""
    rows = groups(to_slices(weight.detach().cpu(), grid.channel_dim), grid.m).reshape(-1, grid.m)
    for start in range(0, len(rows), _GROUPS_AT_ONCE):
        part = rows[start : start + _GROUPS_AT_ONCE]
        yield part, kept_mask(part.reshape(1, 1, -1), grid.n, grid.m).reshape(part.shape)
