"""The layout of cuSPARSELt on Ampere: kept values, then CUTLASS's metadata with its tiles in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensor, SparseSemiStructuredTensorCUSPARSELT

from sparselab.deploy.cutlass import coded, codes_of, decoded, elements, interleaved, straightened
from sparselab.deploy.layout import Layout, Packed

_ROWS, _COLUMNS = 128, 64  # of the blocks that 32 x 32 tiles are ordered in
_TILE = 64  # elements of metadata in a tile


@dataclass(frozen=True)
class CuSparseLt(Layout):
    """One vector: the values ``(rows, columns / 2)``, behind them the metadata, as numbers of the same dtype.

    ``pack`` writes the layout of Ampere for half precision and multiples of 128 x 64, as PyTorch's
    own ``_sparse_semi_structured_tile`` does; what a newer GPU wants is cuSPARSELt's own affair, and
    ``as_torch`` leaves it to cuSPARSELt.
    """

    kernel: ClassVar[str] = "cusparselt"

    def pack(self, dense: Tensor) -> Packed:
        """Values and metadata of ``dense`` in one vector."""
        if (reason := self.why_not(dense) or _why_not_tiled(dense)) is not None:
            raise ValueError(f"not in the layout of {self.kernel}: {reason}")
        values, codes = coded(dense)
        metadata = interleaved(elements(codes, dense.dtype))
        rows, columns = dense.shape
        tiles = metadata.view(columns // _COLUMNS, 2, rows // _ROWS, 4, _TILE).transpose(1, 2)
        return Packed((torch.cat([values.flatten(), tiles.flatten().view(dense.dtype)]),), (rows, columns))

    def unpack(self, packed: Packed) -> Tensor:
        """The matrix of such a vector."""
        (vector,), (rows, columns) = packed.parts, packed.shape
        values = vector[: rows * columns // 2].view(rows, -1)
        tiles = vector[rows * columns // 2 :].view(torch.int16)
        tiles = tiles.view(columns // _COLUMNS, rows // _ROWS, 2, 4, _TILE).transpose(1, 2)
        return decoded(values, codes_of(straightened(tiles.reshape(rows, columns // 16))))

    def as_torch(self, dense: Tensor) -> SparseSemiStructuredTensor:
        """A ``SparseSemiStructuredTensorCUSPARSELT``, compressed by cuSPARSELt on the GPU."""
        if (reason := self.why_not(dense) or self.why_not_here(dense.device)) is not None:
            raise ValueError(f"not in the layout of {self.kernel}: {reason}")
        return SparseSemiStructuredTensorCUSPARSELT.from_dense(dense.contiguous())

    def from_torch(self, tensor: SparseSemiStructuredTensor) -> Tensor:
        """The matrix, by a product with the unit matrix: only cuSPARSELt reads what it wrote."""
        dense: Tensor = tensor.to_dense()
        return dense


def _why_not_tiled(dense: Tensor) -> str | None:
    if dense.dtype.itemsize != 2:
        return "the layout of one-byte numbers is not public"
    rows, columns = dense.shape
    if rows % _ROWS or columns % _COLUMNS:
        return f"{rows} x {columns}: tiles are ordered in blocks of {_ROWS} x {_COLUMNS}"
    return None
