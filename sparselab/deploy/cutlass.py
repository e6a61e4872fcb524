"""The layout of CUTLASS: kept values, and metadata in an order that a warp loads at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensor, SparseSemiStructuredTensorCUTLASS

from sparselab.deploy.compressing import kept_mask
from sparselab.deploy.layout import Layout, Packed


@dataclass(frozen=True)
class Cutlass(Layout):
    """Values ``(rows, columns / 2)`` and metadata: 4 bits for two kept values, 16 bits (int8: 32) together.

    What ``torch.sparse._semi_structured_conversions`` makes, bit for bit. float32 is 1:2: the
    hardware sees a float32 as two halves of four.
    """

    kernel: ClassVar[str] = "cutlass"

    def pack(self, dense: Tensor) -> Packed:
        """Values and metadata of ``dense``."""
        if (reason := self.why_not(dense)) is not None:
            raise ValueError(f"not in the layout of {self.kernel}: {reason}")
        values, codes = coded(dense)
        return Packed((values, interleaved(elements(codes, dense.dtype))), tuple(dense.shape))

    def unpack(self, packed: Packed) -> Tensor:
        """The matrix of values and metadata."""
        values, metadata = packed.parts
        return decoded(values, codes_of(straightened(metadata)))

    def as_torch(self, dense: Tensor) -> SparseSemiStructuredTensor:
        """A ``SparseSemiStructuredTensorCUTLASS``."""
        values, metadata = self.pack(dense).parts
        return SparseSemiStructuredTensorCUTLASS(dense.shape, values, metadata, None, None, None)

    def from_torch(self, tensor: SparseSemiStructuredTensor) -> Tensor:
        """The matrix, bit for bit: ``to_dense`` of PyTorch 2.13 changes float32 whose halves look like NaN."""
        assert tensor.packed is not None
        assert tensor.meta is not None
        return self.unpack(Packed((tensor.packed, tensor.meta), tuple(tensor.shape)))


# ------------------------------------------------------------------------------- values and codes


def coded(dense: Tensor) -> tuple[Tensor, Tensor]:
    """The kept values ``(rows, columns / 2)``, and for each two of them 4 bits with their places in four."""
    n, m = (1, 2) if dense.dtype == torch.float32 else (2, 4)
    mask = kept_mask(dense[None], n, m)[0]
    rows = len(dense)
    values = dense[mask].view(rows, -1)
    places = (torch.arange(dense.shape[1], device=dense.device) % m).expand(dense.shape)[mask].view(rows, -1, n)
    if n == 1:  # the two halves of a float32
        places = torch.cat([2 * places, 2 * places + 1], dim=-1)
    return values, places[..., 0] | places[..., 1] << 2


def decoded(values: Tensor, codes: Tensor) -> Tensor:
    """The dense matrix that ``coded`` was given."""
    rows = len(values)
    n, m = (1, 2) if values.dtype == torch.float32 else (2, 4)
    places = torch.stack([codes & 3, codes >> 2], dim=-1)
    places = places[..., 1:] // 2 if n == 1 else places
    dense = torch.zeros(rows, codes.shape[1], m, dtype=values.dtype, device=values.device)
    return dense.scatter_(-1, places, values.view(rows, -1, n)).view(rows, -1)


# ---------------------------------------------------------------------------------------- metadata


def elements(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes of 4 bits as integers of 16, or 32 where the weights are int8, the first in the lowest bits."""
    element = torch.int32 if dtype == torch.int8 else torch.int16
    together = 2 * element.itemsize
    shifts = 4 * torch.arange(together, device=codes.device)
    return (codes.view(len(codes), -1, together) << shifts).sum(-1).to(element)


def codes_of(metadata: Tensor) -> Tensor:
    """The codes in what ``elements`` made."""
    shifts = 4 * torch.arange(2 * metadata.dtype.itemsize, device=metadata.device)
    return (metadata.long()[..., None] >> shifts & 15).flatten(1)


def interleaved(metadata: Tensor) -> Tensor:
    """The elements in the kernel's order: rows dealt out in eights, 2 x 2 blocks turned, pairs of columns first."""
    rows, columns = metadata.shape
    blocks = metadata.view(-1, _quarters(metadata), 2, 8, columns // 2, 2)
    return blocks.permute(4, 0, 3, 1, 5, 2).reshape(rows, columns)


def straightened(metadata: Tensor) -> Tensor:
    """The inverse of ``interleaved``."""
    rows, columns = metadata.shape
    quarters = _quarters(metadata)
    blocks = metadata.reshape(columns // 2, rows // (16 * quarters), 8, quarters, 2, 2)
    return blocks.permute(1, 3, 5, 2, 0, 4).reshape(rows, columns)


def _quarters(metadata: Tensor) -> int:
    """Rows are dealt out within 32 of them, or 16 where an element has 32 bits."""
    return 2 if metadata.dtype == torch.int16 else 1
