"""A weight is worth its size."""

from __future__ import annotations

from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: what ASP and the permutation paper prune by. Same shape, dtype and device as ``weight``."""
    return weight.detach().abs()
