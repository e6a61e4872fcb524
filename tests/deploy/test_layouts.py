"""Both layouts beside PyTorch's own conversions, and that of cuSPARSELt beside its formula for offsets, index by index."""

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from sparselab.core.kernel_limits import KERNEL_LIMITS
from sparselab.deploy.layout import LAYOUTS
from sparselab.masks import create_mask


def matrix(rows, columns, dtype):
    """2:4 (float32: 1:2), with groups that have room left."""
    weight = torch.randn(rows, columns)
    weight = weight * create_mask(weight, "1:2" if dtype == torch.float32 else "2:4")
    weight[torch.rand(rows, columns) < 0.2] = 0
    return (weight * 20 + 0.0).to(dtype) + torch.zeros((), dtype=dtype)


def test_limits_are_those_of_pytorch():
    theirs = {"cusparselt": SparseSemiStructuredTensorCUSPARSELT, "cutlass": SparseSemiStructuredTensorCUTLASS}
    for kernel, limits in KERNEL_LIMITS.items():
        wanted = theirs[kernel]._DTYPE_SHAPE_CONSTRAINTS
        assert {dtype: (limit.rows, limit.columns) for dtype, limit in limits.items()} == {
            dtype: (config.sparse_min_rows, config.sparse_min_cols) for dtype, config in wanted.items()
        }


@pytest.mark.parametrize("dtype", KERNEL_LIMITS["cutlass"], ids=str)
def test_cutlass_is_what_pytorch_makes(dtype):
    layout = LAYOUTS.resolve("cutlass")
    for rows, columns in ((32, 128), (96, 256)):
        dense = matrix(rows, columns, dtype)
        packed = layout.pack(dense)
        for part, theirs in zip(packed.parts, sparse_semi_structured_from_dense_cutlass(dense)):
            assert part.dtype == theirs.dtype
            assert torch.equal(part, theirs)
        assert torch.equal(layout.unpack(packed), dense)
        assert torch.equal(layout.from_torch(layout.as_torch(dense)), dense)
        if dtype != torch.float32:  # theirs changes float32 whose halves look like NaN
            assert torch.equal(sparse_semi_structured_to_dense_cutlass(*packed.parts), dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_cusparselt_has_the_tiles_of_cutlass_in_its_own_order(dtype):
    layout = LAYOUTS.resolve("cusparselt")
    rows, columns = 256, 192
    dense = matrix(rows, columns, dtype)
    packed = layout.pack(dense)
    values, theirs = sparse_semi_structured_from_dense_cutlass(dense)
    (vector,) = packed.parts
    assert vector.numel() * 16 == rows * columns * 9
    assert torch.equal(vector[: values.numel()].view(values.shape), values)
    metadata, tiles = vector[values.numel() :].view(torch.int16), theirs.flatten()
    for row in range(0, rows, 32):
        for column in range(0, columns, 32):
            ours = (row // 128) * 512 + (column // 64) * 512 * (rows // 128)  # as _sparse_semi_structured_tile has it
            ours += (row % 128) // 32 * 64 + (column % 64) // 32 * 256
            start = column // 32 * rows * 2 + row * 2
            assert torch.equal(metadata[ours : ours + 64], tiles[start : start + 64])
    assert torch.equal(layout.unpack(packed), dense)


def test_what_a_kernel_would_lose_is_refused():
    cutlass, cusparselt = LAYOUTS.resolve("cutlass"), LAYOUTS.resolve("cusparselt")
    full = torch.ones(64, 64, dtype=torch.float16)
    for layout, dense, words in (
        (cutlass, full, r"2048 weights are not 2:4 and would be lost"),
        (cutlass, full.float(), r"2048 weights are not 1:2 and would be lost"),
        (cutlass, full[:, :32], "64 x 32: the kernel wants multiples of 32 x 64"),
        (cutlass, full.double(), "float64: the kernel of cutlass takes float16, bfloat16, int8, float32"),
        (cusparselt, full.float(), "float32: the kernel of cusparselt takes"),
        (cusparselt, matrix(64, 64, torch.float16), "64 x 64: tiles are ordered in blocks of 128 x 64"),
        (cusparselt, matrix(64, 64, torch.int8), "one-byte numbers is not public"),
    ):
        with pytest.raises(ValueError, match=words):
            layout.pack(dense)
    with pytest.raises(ValueError, match="on the cpu"):
        cusparselt.as_torch(matrix(64, 64, torch.float16))
    assert isinstance(nn.Parameter(cutlass.as_torch(matrix(64, 64, torch.float16)), requires_grad=False), nn.Parameter)
