"""What a tensor is like, without its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """The size of a tensor, what its numbers are and where they are.

    >>> Shape.of(torch.ones(2, 3)).zeros().shape
    torch.Size([2, 3])
    """

    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """That of ``tensor``."""
        return cls(tuple(tensor.shape), tensor.dtype, tensor.device)

    def zeros(self) -> Tensor:
        """A tensor like it."""
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)
