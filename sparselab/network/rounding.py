"""One rounding in every weight of a model, made and undone exactly: how far that moves its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparselab.core.interrupts import interrupted_afterwards
from sparselab.core.layers import is_wrapped

_MANTISSA = {torch.float64: 52, torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
_AS_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


@contextmanager
def rounded(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Every finite weight of ``model`` off by one unit in the last place of ``dtype``, while it lasts.

    That bit of each number is flipped, so half of them grow and half shrink; flipped once more they
    are as before, bit for bit, without a copy. Weights whose own dtype is coarser than ``dtype``
    are off by a unit in their own last place.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> with rounded(model, torch.bfloat16):
    ...     float(model.weight.detach())
    1.0078125
    >>> float(model.weight.detach())
    1.0
    """
    weights = [weight for weight in model.parameters() if weight.dtype in _MANTISSA and not is_wrapped(weight)]
    with interrupted_afterwards(), torch.no_grad():
        for weight in weights:
            _flip(weight, dtype)
    try:
        yield
    finally:
        with interrupted_afterwards(), torch.no_grad():
            for weight in weights:
                _flip(weight, dtype)


def _flip(weight: Tensor, dtype: torch.dtype) -> None:
    bit = max(0, _MANTISSA[weight.dtype] - _MANTISSA.get(dtype, 52))
    finite = torch.isfinite(weight)  # its exponent stays, so it is finite afterwards too
    weight.view(_AS_INTEGERS[weight.dtype]).bitwise_xor_(finite.to(_AS_INTEGERS[weight.dtype]) << bit)
