"""A 2:4 weight times one vector on a CPU, where the time is that of reading the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from sparselab.deploy.compressing import kept_mask
from sparselab.ops.jit import jit_sums
from sparselab.ops.threads import map_blocks, row_blocks

_ROWS = 64
"""Rows that are computed side by side, in vector registers: their values lie one after the other."""

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_WEIGHTS_A_THREAD = 1 << 21  # with fewer, to begin a thread takes longer than it saves


@dataclass(frozen=True, eq=False)
class TwoOfFour:
    """A 2:4 float32 matrix of ``shape``, laid out for products with one vector at a time.

    It has 0.5625 of the bytes of the dense one, and is no faster for it: ``docs/deploy.md`` has by
    how much it misses, which is why it is here and not in the package.

    >>> matrix = torch.tensor([[1.0, 0, 0, 2, 0, 0, 3, 0]])
    >>> TwoOfFour.of(matrix) @ torch.arange(8.0), TwoOfFour.of(matrix).bytes
    (tensor([24.]), 1152)
    """

    shape: tuple[int, int]
    values: Floats
    codes: Codes

    @classmethod
    def of(cls, weight: Tensor) -> TwoOfFour:
        """``weight`` ``(rows, channels)``, float32 and on the CPU. ``ValueError`` for one that is not 2:4."""
        if weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.ndim != 2:
            raise ValueError(
                f"TwoOfFour takes a float32 matrix on the CPU, got {str(weight.dtype).removeprefix('torch.')} of shape "
                f"{tuple(weight.shape)} on {weight.device}: convert it first, weight.float().cpu().flatten(1)"
            )
        rows, channels = weight.shape
        padded = pad(weight.detach(), (0, -channels % 4, 0, -rows % _ROWS))
        mask = kept_mask(padded[None], 2, 4)[0]
        if lost := int(((padded != 0) & ~mask).sum()):
            raise ValueError(
                f"TwoOfFour takes a matrix that is 2:4: {lost} weights of this one would be lost, prune it first"
            )
        blocks, groups = len(padded) // _ROWS, padded.shape[1] // 4
        values = padded[mask].view(blocks, _ROWS, groups, 2).permute(0, 2, 3, 1).contiguous()
        places = (
            torch.arange(4).repeat(groups).expand(padded.shape)[mask].view(blocks, _ROWS, groups, 2).transpose(1, 2)
        )
        return cls((rows, channels), values.numpy(), np.ascontiguousarray(_codes_of(places.numpy())))

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.values.nbytes + self.codes.nbytes

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product with a float32 ``vector`` of ``shape[1]`` numbers, on PyTorch's number of threads.

        The same whatever that number is. Sums are float32; where a weight is not kept, what it is
        multiplied with is not looked at. Raises ``ValueError`` for any other vector.
        """
        rows, channels = self.shape
        if vector.shape != (channels,) or vector.dtype != torch.float32 or vector.device.type != "cpu":
            raise ValueError(
                f"this matrix is multiplied with {channels} float32 numbers on the CPU, got {vector.dtype} of shape "
                f"{tuple(vector.shape)} on {vector.device}: give one vector at a time"
            )
        met = pad(vector.detach(), (0, -channels % 4)).contiguous().numpy()
        blocks, groups = self.codes.shape[:2]
        result = np.empty(blocks * _ROWS, np.float32)
        parts = row_blocks(blocks, max(1, _WEIGHTS_A_THREAD // (4 * _ROWS * max(1, groups))))
        map_blocks(lambda part: _times(self.values, self.codes, met, result, part.start, part.stop), parts)
        return torch.from_numpy(result[:rows])


def _codes_of(places: npt.NDArray[np.integer[Any]]) -> Codes:
    """How ``_times`` is told the two places ``(..., 2)`` in a group, ascending: two questions for each.

    The first kept channel is 0, but 1 if bit 0 is set, but 2 if bit 1 is; the second is 1, but 2 if
    bit 2 is set, but 3 if bit 3 is.
    """
    first, second = np.array([0, 1, 2, 0], np.uint8), np.array([0, 0, 4, 8], np.uint8)
    codes: Codes = first[places[..., 0]] | second[places[..., 1]]
    return codes


@jit_sums
def _times(values: Floats, codes: Codes, vector: Floats, result: Floats, begin: int, end: int) -> None:
    """Blocks ``begin`` to ``end`` of the product, into ``result`` ``(blocks * _ROWS)``.

    ``values`` are ``(blocks, groups, 2, _ROWS)``, ``codes`` ``(blocks, groups, _ROWS)``, ``vector``
    ``(groups * 4)``.
    """
    sums = np.zeros(_ROWS, np.float32)
    for block in range(begin, end):
        sums[:] = 0
        for group in range(values.shape[1]):
            x0, x1, x2, x3 = vector[4 * group], vector[4 * group + 1], vector[4 * group + 2], vector[4 * group + 3]
            for row in range(_ROWS):
                code = np.int32(codes[block, group, row])
                one, other = x0, x1
                if code & 1:
                    one = x1
                if code & 2:
                    one = x2
                if code & 4:
                    other = x2
                if code & 8:
                    other = x3
                sums[row] += values[block, group, 0, row] * one + values[block, group, 1, row] * other
        for row in range(_ROWS):
            result[block * _ROWS + row] = sums[row]
