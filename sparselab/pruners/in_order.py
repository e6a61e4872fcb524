"""A pruner that sees a weight's input channels in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparselab.core.channel_order import ChannelOrder
from sparselab.core.moves import moved
from sparselab.masks import MaskCalculator
from sparselab.pruners.pruner import Pruned, Pruner


@dataclass(frozen=True, eq=False)
class InOrder:
    """``pruner`` as if the input channels stood in ``order``, its mask and values put back where they belong.

    What it makes is what the pruner makes of the permuted weight by the permuted statistics, so an
    N:M mask is N:M in that order, and in the weight as it is stored it is not: no kernel runs it.

    >>> import numpy as np, torch
    >>> from sparselab.masks import calculator
    >>> from sparselab.pruners import BySaliency
    >>> order = ChannelOrder(np.array([0, 2, 1, 3]), 1)
    >>> InOrder(BySaliency(), order)(torch.tensor([[5.0, 6.0, 1.0, 2.0]]), calculator("1:2")).weight
    tensor([[5., 6., 0., 0.]])
    """

    pruner: Pruner
    order: ChannelOrder

    @property
    def needs(self) -> type[Any] | None:
        """What the pruner needs."""
        return self.pruner.needs

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """Prune ``weight``; as ``Pruner`` says."""
        move = self.order.move(tuple(weight.shape))
        pruner, there = moved(self.pruner, [move]), moved(statistic, [move])
        found = pruner(move(weight.detach()), calculator, there, channel_dim=channel_dim)
        back = move.inverse()
        return Pruned(back(found.mask), back(found.weight))

    def __str__(self) -> str:
        return f"{self.pruner} in its own order"
