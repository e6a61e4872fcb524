"""Why no sparse kernel of PyTorch would take a layer in a precision that it need not have yet."""

from __future__ import annotations

import torch
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT

from sparselab.core.layers import LayerWeight
from sparselab.core.weight_matrix import to_slices
from sparselab.masks.calculator import NOTHING_TO_CHOOSE, MaskCalculator

_TORCH = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "float8": torch.float8_e4m3fn,
}


def refusal(layer: LayerWeight, pattern: MaskCalculator, dtype: str) -> str:
    """Why no kernel would take ``layer`` under ``pattern`` in ``dtype``; empty where one would."""
    positions, outputs, channels = to_slices(torch.empty(layer.weight.shape, device="meta"), layer.channel_dim).shape
    groups = 1 if layer.channel_dim < 0 else getattr(layer.module, "groups", 1)
    if channels == 1 and groups > 1:
        return f"depthwise: {NOTHING_TO_CHOOSE}"
    if pattern.nm is None or pattern.nm[1] != 4 or pattern.nm[0] > 2:
        return f"kernels exist for 2:4, not for {pattern}"
    if positions > 1:
        return "PyTorch's kernels multiply one matrix: a convolution wider than 1x1 needs TensorRT"
    if groups > 1:
        return "a convolution in groups is several matrices"
    limits = SparseSemiStructuredTensorCUSPARSELT._DTYPE_SHAPE_CONSTRAINTS[_TORCH[dtype]]
    if outputs % limits.sparse_min_rows or channels % limits.sparse_min_cols:
        return (
            f"{outputs} x {channels}: cuSPARSELt in {dtype} wants multiples of "
            f"{limits.sparse_min_rows} x {limits.sparse_min_cols}"
        )
    return ""
