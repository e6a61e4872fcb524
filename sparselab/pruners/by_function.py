"""A user's own function from a weight to its mask, as a pruner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparselab.masks import MaskCalculator
from sparselab.pruners.pruner import Pruned


@dataclass(frozen=True)
class ByFunction:
    """Mask by ``function``, from a weight to a mask of its shape; no calculator is asked."""

    function: Callable[[Tensor], Tensor]
    needs = None

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator | None = None, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """The mask that the function returns. Raises ``ValueError`` for anything of another shape."""
        mask = self.function(weight)
        if not isinstance(mask, Tensor) or mask.shape != weight.shape:
            raise ValueError(f"the mask function must return a tensor of shape {tuple(weight.shape)}")
        mask = mask.to(weight.device).bool()
        return Pruned(mask, torch.where(mask, weight.detach(), 0))
