"""The primitives in numba, on threads over fixed blocks."""

from __future__ import annotations

from sparselab.ops.cpu.matrix import CpuMatrix, load

__all__ = ["CpuMatrix", "load"]
