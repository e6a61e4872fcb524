"""A weight of which N of every M input channels stay, as its kept values and the places of these."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparselab.core.weight_matrix import from_matrix, matrix_dims

_GROUPS_AT_ONCE = 1 << 20  # a multiple of 8, so that every part ends with a whole byte


@dataclass(frozen=True)
class Grid:
    """Where the groups of a weight of ``shape`` are: ``n`` of every ``m`` along its input channels stay.

    ``channel_dim`` is as in ``weight_matrix``. A last group that is cut short counts as filled up
    with zeros.
    """

    shape: tuple[int, ...]
    n: int
    m: int
    channel_dim: int

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.shape[matrix_dims(len(self.shape), self.channel_dim)[2]]

    @property
    def groups(self) -> int:
        """How many groups of ``m`` there are in the whole weight."""
        return math.prod(self.shape) // max(1, self.channels) * -(-self.channels // self.m)

    @property
    def values(self) -> int:
        """How many values are kept."""
        return self.groups * self.n

    @property
    def index_bits(self) -> int:
        """Bits of an index in a group: 2 of 4."""
        return max(1, (self.m - 1).bit_length())

    @property
    def by_index(self) -> bool:
        """Whether kept values are told by their indices; else by one bit for each place, where that is less."""
        return self.n * self.index_bits <= self.m

    @property
    def group_bits(self) -> int:
        """Bits that say which values of a group are kept."""
        return self.n * self.index_bits if self.by_index else self.m

    @property
    def place_bytes(self) -> int:
        """Bytes that say which values are kept."""
        return -(-self.groups * self.group_bits // 8)


def counted(kept: Tensor) -> Tensor:
    """How many in each group of ``kept``, bool ``(..., m)``, are true; in bytes where these can hold it.

    PyTorch sums bytes ten times as fast as bools, which it turns into int64 first.
    """
    dtype = torch.uint8 if kept.shape[-1] < 256 else torch.int64
    return kept.view(torch.uint8).sum(-1, dtype=dtype)


def packed_places(mask: Tensor, grid: Grid) -> Tensor:
    """The places of ``grid.n`` true entries in each row of ``mask`` ``(groups, m)``: uint8, little end first.

    Indices of ``index_bits`` each, ascending; or the row itself, bit by bit, where that is shorter.
    """
    return torch.from_numpy(np.packbits(_bits(mask.numpy(), grid), bitorder="little"))


def _bits(mask: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.bool_]:
    if not grid.by_index:
        return mask.reshape(-1)
    if grid.m > _LOOKED_UP:
        return _index_bits(mask, grid)
    powers = torch.tensor([1 << place for place in range(grid.m)], dtype=torch.uint8)
    rows = (torch.from_numpy(mask).view(torch.uint8) * powers).sum(1, dtype=torch.uint8)
    bits: npt.NDArray[np.bool_] = np.take(_table(grid.n, grid.m), rows.numpy(), axis=0)
    return bits.reshape(-1)


_LOOKED_UP = 8
"""The most places of a group whose index bits come from a table, which takes less than half the time."""


@cache
def _table(n: int, m: int) -> npt.NDArray[np.bool_]:
    """The index bits of every row of ``m`` places, by the number whose bits the row is; of those that keep ``n``."""
    numbers = np.arange(1 << m)
    rows = (numbers[:, None] >> np.arange(m)) & 1 > 0
    keeping = rows.sum(1) == n
    grid = Grid((int(keeping.sum()), m), n, m, 1)
    table = np.zeros((len(rows), grid.group_bits), bool)
    table[keeping] = _index_bits(rows[keeping], grid).reshape(-1, grid.group_bits)
    return table


def _index_bits(mask: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.bool_]:
    indices = np.flatnonzero(mask) % grid.m
    bits: npt.NDArray[np.bool_] = (indices[:, None] >> np.arange(grid.index_bits)) & 1 > 0
    return bits.reshape(-1)


def restored(values: Tensor, places: Tensor, grid: Grid) -> Tensor:
    """The weight whose kept ``values`` and ``places`` these are, on the CPU; what was not kept is +0.

    Raises ``ValueError`` for places and values that are not of ``grid``, and for groups in which
    not ``n`` different places are named.
    """
    if values.numel() != grid.values or places.numel() != grid.place_bytes or places.dtype != torch.uint8:
        raise ValueError(
            f"{grid.values} values and {grid.place_bytes} bytes of places make a {grid.n}:{grid.m} weight of shape "
            f"{grid.shape}; here are {values.numel()} and {places.numel()}: the file is damaged"
        )
    if not math.prod(grid.shape):
        return torch.empty(grid.shape, dtype=values.dtype)
    numbers = values.contiguous().reshape(-1).view(_INTEGERS[values.dtype.itemsize])
    dense = torch.zeros(grid.groups, grid.m, dtype=numbers.dtype)
    for start, mask in _masks(places, grid):
        stop = start + len(mask)
        dense[start:stop].masked_scatter_(mask, numbers[start * grid.n : stop * grid.n])
    matrix = dense.view(math.prod(grid.shape) // grid.channels, -1)[:, : grid.channels]
    return from_matrix(matrix.contiguous().view(values.dtype), torch.Size(grid.shape), grid.channel_dim).contiguous()


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def mask_of(places: Tensor, grid: Grid) -> Tensor:
    """Which entries ``places`` keep: bool, of the shape of the weight."""
    kept = torch.ones(grid.values, dtype=torch.uint8)
    return restored(kept, places, grid) != 0


def _masks(places: Tensor, grid: Grid) -> Iterator[tuple[int, Tensor]]:
    """The rows of the mask ``(groups, m)``, a part at a time, each with the number of its first."""
    packed = places.numpy()
    for start in range(0, grid.groups, _GROUPS_AT_ONCE):
        count = min(_GROUPS_AT_ONCE, grid.groups - start)
        first = start * grid.group_bits // 8
        part = packed[first : first + -(-count * grid.group_bits // 8)]
        bits = np.unpackbits(part, count=count * grid.group_bits, bitorder="little")
        mask = torch.from_numpy(_mask(bits, grid))
        if bool((counted(mask) != grid.n).any()):
            raise ValueError(f"a group does not keep {grid.n} of {grid.m}: the file is damaged")
        yield start, mask


def _mask(bits: npt.NDArray[np.uint8], grid: Grid) -> npt.NDArray[np.bool_]:
    if not grid.by_index:
        return bits.reshape(-1, grid.m).astype(bool)
    indices = bits.reshape(-1, grid.n, grid.index_bits).astype(np.int64) @ (1 << np.arange(grid.index_bits))
    if (indices >= grid.m).any():
        raise ValueError(f"an index is not below {grid.m}: the file is damaged")
    mask = np.zeros((len(indices), grid.m), bool)
    np.put_along_axis(mask, indices, True, axis=1)
    return mask
