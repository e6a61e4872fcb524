"""Why no sparse kernel of PyTorch would take a layer in a precision that it need not have yet."""

from __future__ import annotations

import torch

from sparselab.core.kernel_limits import KERNEL_LIMITS
from sparselab.core.layers import LayerWeight
from sparselab.core.weight_matrix import to_slices
from sparselab.masks.calculator import NOTHING_TO_CHOOSE, MaskCalculator

KERNEL = "cusparselt"
"""The kernel that forecasts are for: the one that all GPUs of compute capability 8 and above have."""

_DTYPES = {
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
    return KERNEL_LIMITS[KERNEL][_DTYPES[dtype]].why_not(outputs, channels) or ""
