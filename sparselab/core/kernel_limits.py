"""What PyTorch's 2:4 kernels take, in one table: for each kernel and dtype the pattern and the sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Limit:
    """What a kernel asks of a matrix of one dtype: its ``pattern``, rows and columns in multiples of these."""

    pattern: str
    rows: int
    columns: int

    def why_not(self, rows: int, columns: int) -> str | None:
        """Why a matrix of that size is not taken, or ``None``."""
        if rows and columns and not rows % self.rows and not columns % self.columns:
            return None
        multiples = str(self.rows) if self.rows == self.columns else f"{self.rows} x {self.columns}"
        return f"{rows} x {columns}: the kernel wants multiples of {multiples}"


KERNEL_LIMITS = {
    "cusparselt": {
        torch.float16: Limit("2:4", 16, 16),
        torch.bfloat16: Limit("2:4", 16, 16),
        torch.float8_e4m3fn: Limit("2:4", 32, 32),
        torch.int8: Limit("2:4", 32, 32),
    },
    "cutlass": {
        torch.float16: Limit("2:4", 32, 64),
        torch.bfloat16: Limit("2:4", 32, 64),
        torch.int8: Limit("2:4", 16, 128),
        torch.float32: Limit("1:2", 32, 32),
    },
}
"""``SparseSemiStructuredTensor`` of PyTorch 2.13, by kernel and dtype."""

COMPUTE_CAPABILITIES = {"cusparselt": (8, 9, 10, 11, 12), "cutlass": (8,)}
"""The major compute capabilities of the GPUs that have the kernel: CUTLASS's ends with Ampere and Ada."""
