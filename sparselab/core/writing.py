"""Whether a tensor can be written: what is pruned and permuted is changed in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def why_not_plain(tensor: Tensor) -> str | None:
    """Why ``tensor`` has no numbers one after the other in memory, and what to do; ``None`` where it has."""
    if nn.parameter.is_lazy(tensor):
        return "not initialised yet: run one forward pass first"
    if tensor.layout is not torch.strided:
        return f"held as {str(tensor.layout).removeprefix('torch.')}: make it dense first, to_dense()"
    return None


def why_not_written(tensor: Tensor) -> str | None:
    """Why ``tensor`` cannot be changed in place, element by element, and what to do; ``None`` where it can.

    >>> why_not_written(torch.zeros(1, 4).expand(4, 4))
    'several of its elements are one place in memory (expanded): clone() it first'
    """
    if (reason := why_not_plain(tensor)) is not None:
        return reason
    if tensor.is_inference():
        return "made in inference mode, so it cannot be changed: make or load the model outside torch.inference_mode()"
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride())):
        return "several of its elements are one place in memory (expanded): clone() it first"
    return None
