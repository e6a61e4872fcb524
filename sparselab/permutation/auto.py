"""The strategy for those who do not want to choose one."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.permutation.channel_swap import ChannelSwap
from sparselab.permutation.strategy import Search


@dataclass(frozen=True)
class Auto:
    """The best order that a moderate amount of time buys."""

    def __call__(self, search: Search) -> None:
        """Greedy swaps."""
        ChannelSwap()(search)
