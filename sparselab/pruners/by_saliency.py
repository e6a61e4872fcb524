"""Keep what has the highest scores, as it is: the simplest pruner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparselab.core.moves import Move, moved
from sparselab.masks import MaskCalculator, create_mask
from sparselab.pruners.pruner import Pruned
from sparselab.saliency import Saliency, from_statistics, needs


@dataclass(frozen=True)
class BySaliency:
    """Mask by ``saliency``; the weights that stay keep their values.

    ``saliency`` is a name (``"magnitude"``, ``"wanda"``, ``"ria,power=0.3"``), a callable from a
    weight to scores or a tensor of scores.

    >>> from sparselab.masks import calculator
    >>> BySaliency()(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), calculator("2:4")).weight
    tensor([[ 0., -4.,  0.,  3.]])
    """

    saliency: Saliency = "magnitude"

    @property
    def needs(self) -> type[Any] | None:
        """What the saliency scores by."""
        return needs(self.saliency) if isinstance(self.saliency, str) else None

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """The mask of the highest scores."""
        mask = create_mask(weight, calculator, channel_dim=channel_dim, saliency=self._criterion(statistic))
        return Pruned(mask, torch.where(mask, weight.detach(), 0))

    def moved(self, move: Move) -> BySaliency:
        """The pruner of the weight after ``move``: scores that belong to it move along."""
        return BySaliency(moved(self.saliency, [move]))

    def _criterion(self, statistic: Any) -> Saliency:
        kind = self.needs
        if kind is None:
            return self.saliency
        if not isinstance(statistic, kind):
            raise ValueError(
                f"pruner {self} needs {kind.__name__} of the weight's inputs, got {type(statistic).__name__}: "
                f"collect them with sl.statistics.collect(model, batches, [{kind.__name__}])"
            )
        assert isinstance(self.saliency, str)
        return from_statistics(self.saliency, {kind: {"weight": statistic}})["weight"]
