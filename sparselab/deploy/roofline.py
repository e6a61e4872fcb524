"""How long operators take, dense and sparse: by roofline, at every corner of what kernels were measured to reach.

The time of a product is that of its arithmetic or that of its memory traffic, whichever is longer
(Williams, Waterman and Patterson, *Roofline*, 2009), or the sum of both where nothing overlaps. What
kernels reach of the peaks is not known beforehand, only between what bounds; so each time is worked out
at every combination of these (``Corners``). Dense and sparse are always compared at one combination.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparselab.deploy.hardware import BYTES, Attained, Hardware
from sparselab.deploy.workload import Operation

Array = NDArray[np.float64]

HALF = 2
"""Bytes of a number that is no operand of a quantised product: outputs, sums, norms."""


@dataclass(frozen=True, eq=False)
class Corners:
    """Every combination of the extremes: each field has one entry for each.

    ``compute``, ``memory`` and ``sparse`` are shares of peaks as in ``Attained``; ``overlap`` says
    whether traffic and arithmetic run at once, ``tiled`` whether a sparse kernel leaves processors
    idle where there are fewer blocks than processors, ``fused`` whether what is done number by
    number costs no traffic of its own.
    """

    compute: Array
    memory: Array
    sparse: Array
    overlap: NDArray[np.bool_]
    tiled: NDArray[np.bool_]
    fused: NDArray[np.bool_]

    @classmethod
    def of(cls, attained: Attained) -> Corners:
        """All combinations of the two ends of each."""
        shares = (attained.compute, attained.memory, attained.sparse)
        table = np.array(list(itertools.product(*shares, *[(0.0, 1.0)] * 3)))
        compute, memory, sparse = table.T[:3]
        overlap, tiled, fused = table.T[3:].astype(np.bool_)
        return cls(compute, memory, sparse, overlap, tiled, fused)


@dataclass(frozen=True, eq=False)
class Times:
    """Microseconds at every corner: of the dense operator, and of the sparse one (the same where there is none)."""

    dense: Array
    sparse: Array

    def __add__(self, other: Times) -> Times:
        return Times(self.dense + other.dense, self.sparse + other.sparse)

    @property
    def speedup(self) -> Array:
        """Dense over sparse, corner by corner."""
        return self.dense / np.maximum(self.sparse, 1e-12)


def none() -> Times:
    """No time at all."""
    return Times(np.zeros(1), np.zeros(1))


@dataclass(frozen=True)
class Roofline:
    """The times of operators on one GPU, in one precision."""

    hardware: Hardware
    dtype: str
    attained: Attained

    @property
    def ridge(self) -> float:
        """Flops per byte at which a dense product needs memory and arithmetic equally long."""
        return self.hardware.dense[self.dtype] * 1e3 / self.hardware.bandwidth

    def bytes(self, operation: Operation, *, sparse: bool = False) -> float:
        """What an operator moves; a 2:4 weight is half its numbers and 2 bits for each that stays."""
        operand = BYTES[self.dtype]
        weight = operation.weights * (operand / 2 + 1 / 8 if sparse else operand)
        read = operation.read * (operand if operation.layer is not None else HALF)
        return weight + read + operation.written * HALF

    def times(self, operation: Operation, corners: Corners, *, kernel: bool) -> Times:
        """The times of ``operation``, of which ``kernel`` says whether a sparse kernel takes it."""
        dense = self._combined(self._arithmetic(operation, corners), self._traffic(operation, corners), corners)
        if not kernel:
            return Times(dense, dense)
        rate = self.hardware.sparse[self.dtype] * corners.compute * corners.sparse
        idle = np.where(corners.tiled, self._idle(operation, split=False), self._idle(operation, split=True))
        busy = operation.flops / (rate * 1e6) * idle
        moved = self.bytes(operation, sparse=True) / (self.hardware.bandwidth * corners.memory * 1e3)
        return Times(dense, self._combined(busy, moved, corners))

    def _combined(self, busy: Array, moved: Array, corners: Corners) -> Array:
        return np.where(corners.overlap, np.maximum(busy, moved), busy + moved)

    def _arithmetic(self, operation: Operation, corners: Corners) -> Array:
        """Of the dense operator."""
        tensor_cores = self.hardware.dense[self.dtype]
        if operation.layer is None and operation.name not in _PRODUCTS:  # number by number
            return operation.flops / (self.hardware.vector * corners.compute * 1e6)
        if operation.groups > 1 and operation.channels == 1:  # depthwise: tensor cores have nothing to sum over
            rate = np.where(corners.compute == corners.compute.max(), tensor_cores, self.hardware.vector)
            return operation.flops / (rate * corners.compute * 1e6)
        idle = self._idle(operation, split=True) if operation.layer is not None else 1.0
        return operation.flops / (tensor_cores * corners.compute * 1e6) * np.where(corners.tiled, idle, 1.0)

    def _traffic(self, operation: Operation, corners: Corners) -> Array:
        moved = self.bytes(operation) / (self.hardware.bandwidth * corners.memory * 1e3)
        by_number = operation.layer is None and operation.name not in _PRODUCTS
        return np.where(corners.fused, 0.0, moved) if by_number else moved

    def _idle(self, operation: Operation, *, split: bool) -> float:
        """How much longer blocks of a kernel take that do not fill all processors to the last.

        ``split`` kernels share the sum of one block among processors where there are too few blocks.
        """
        tile, processors = self.attained.tile, self.hardware.multiprocessors
        blocks = operation.groups * -(-operation.outputs // tile) * -(-operation.tokens // tile)
        if blocks == 0 or (split and blocks < processors):
            return 1.0
        padded = blocks * tile * tile / max(1, operation.groups * operation.outputs * operation.tokens)
        waves = -(-blocks // processors)
        return padded * waves * processors / blocks


_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "_convolution"} | {
    f"_scaled_dot_product_{kind}"
    for kind in ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
}
"""Products of activations, on tensor cores too."""
