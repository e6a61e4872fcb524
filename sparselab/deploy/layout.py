"""How a 2:4 matrix lies in memory for a kernel: kept values, and metadata that says where they belong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensor

from sparselab.core.kernel_limits import COMPUTE_CAPABILITIES, KERNEL_LIMITS, Limit
from sparselab.core.registry import Registry
from sparselab.deploy.compressing import kept_mask


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix of ``shape`` in a layout; ``parts`` are the tensors that it is made of there."""

    parts: tuple[Tensor, ...]
    shape: tuple[int, ...]


class Layout(ABC):
    """The layout of one of PyTorch's kernels for semi-structured matrices.

    ``pack`` and ``unpack`` are plain tensor code, for any device; ``as_torch`` makes the tensor that
    the kernel multiplies.
    """

    kernel: ClassVar[str]

    @property
    def limits(self) -> dict[torch.dtype, Limit]:
        """What the kernel takes, by dtype."""
        return KERNEL_LIMITS[self.kernel]

    @abstractmethod
    def pack(self, dense: Tensor) -> Packed:
        """``dense`` ``(rows, columns)`` in this layout. ``ValueError`` for a matrix that ``limits`` do not take."""

    @abstractmethod
    def unpack(self, packed: Packed) -> Tensor:
        """The matrix that was packed, bit for bit but for the sign of zeros."""

    @abstractmethod
    def as_torch(self, dense: Tensor) -> SparseSemiStructuredTensor:
        """The tensor for PyTorch's kernel, on the device of ``dense``."""

    @abstractmethod
    def from_torch(self, tensor: SparseSemiStructuredTensor) -> Tensor:
        """The dense matrix of such a tensor."""

    def why_not(self, dense: Tensor) -> str | None:
        """Why the kernel does not take ``dense``, wherever it is, or ``None``."""
        if (limit := self.limits.get(dense.dtype)) is None:
            takes = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.limits)
            return f"{str(dense.dtype).removeprefix('torch.')}: the kernel of {self.kernel} takes {takes}"
        if (reason := limit.why_not(*dense.shape)) is not None:
            return reason
        n, m = map(int, limit.pattern.split(":"))
        lost = int(((dense != 0) & ~kept_mask(dense[None], n, m)[0]).sum())
        return f"{lost} weights are not {limit.pattern} and would be lost" if lost else None

    def why_not_here(self, device: torch.device) -> str | None:
        """Why the kernel does not run on ``device``, or ``None``."""
        if device.type != "cuda":
            return f"on the {device.type}: the kernel runs on an NVIDIA GPU, model.to('cuda') first"
        capability = torch.cuda.get_device_capability(device)
        if capability[0] not in COMPUTE_CAPABILITIES[self.kernel]:
            known = ", ".join(f"{major}.x" for major in COMPUTE_CAPABILITIES[self.kernel])
            return f"a GPU of compute capability {capability[0]}.{capability[1]}: the kernel of {self.kernel} is for {known}"
        return None


LAYOUTS: Registry[Layout] = Registry(
    "layout",
    {"cusparselt": "sparselab.deploy.cusparselt:CuSparseLt", "cutlass": "sparselab.deploy.cutlass:Cutlass"},
)
