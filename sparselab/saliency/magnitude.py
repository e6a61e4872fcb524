"""A weight is worth its size."""

from __future__ import annotations

from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: what ASP and the permutation paper prune by. Shape, dtype, device of ``weight``."""
    return weight.detach().abs()
