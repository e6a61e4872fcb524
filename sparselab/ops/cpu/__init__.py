"""The primitives in numba, on threads over fixed blocks."""

from __future__ import annotations

from sparselab.ops.cpu.handle import CpuHandle, load

__all__ = ["CpuHandle", "load"]
