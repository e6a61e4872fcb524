"""Masks of CUDA tensors by a kernel, on torch's own memory and stream."""

from __future__ import annotations

import torch
from torch import Tensor

from sparselab.ops.cuda.device import CupyDevice
from sparselab.ops.cuda.kernels import Launcher

MAX_GROUP = 32  # what the kernel keeps in registers
_THREADS, _BLOCKS = 256, 8192
_ALIGNED = 16  # bytes: four scores are read at a time


def takes(scores: Tensor, m: int) -> bool:
    """Whether the kernel does these scores: float32, groups of up to 32."""
    return scores.dtype == torch.float32 and m <= MAX_GROUP and scores.numel() > 0


def top_n_of_m(scores: Tensor, n: int, m: int, device: CupyDevice) -> Tensor:
    """``sparselab.ops.masks.top_n_of_m`` by the kernel ``mask_1d``: one read of the scores, one write of the mask.

    ``scores`` are finite, on ``device`` and such as ``takes`` agrees to; nothing is copied but what is not contiguous.
    """
    scores = scores.detach().contiguous()
    if scores.data_ptr() % _ALIGNED:
        scores = scores.clone()
    mask = torch.empty(scores.shape, dtype=torch.uint8, device=scores.device)
    groups = scores.numel() // m
    grid = (min(_BLOCKS, -(-groups // _THREADS)),)
    there, out = (device.borrow(tensor.view(groups, m)) for tensor in (scores, mask))
    Launcher(device, n, m)("mask_1d", grid, _THREADS, there, out, groups)
    return mask.view(torch.bool)
