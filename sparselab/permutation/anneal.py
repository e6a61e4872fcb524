"""Simulated annealing over swaps of two channels: the plainest search that leaves local optima."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparselab.permutation.annealed_assignment import swap_spread
from sparselab.permutation.rounds import rounds
from sparselab.permutation.strategy import Search


@dataclass(frozen=True)
class Anneal:
    """``steps`` random swaps in each of ``chains`` independent chains, temperature falling from ``hot`` to ``cold``.

    Temperatures are in spreads of a random swap's gain. Chains report now and then, and go on from the best order they met
    since they last did. With a time limit the steps fill the time, whatever their number.
    """

    steps: int = 500_000
    chains: int = 2
    hot: float = 0.3
    cold: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.chains < 1:
            raise ValueError(f"strategy 'anneal': steps and chains must be at least 1, got {self}")
        if not 0 < self.cold <= self.hot < np.inf:
            raise ValueError(f"strategy 'anneal': temperatures must be finite, 0 < cold <= hot, got {self}")

    def __call__(self, search: Search) -> None:
        """Cool down once, over all steps or all the time there is."""
        spread = swap_spread(search, search.best)
        orders = np.tile(search.best, (self.chains, 1))
        for share, steps, expected in rounds(search, self.steps, search.time_limit):
            hot, cold = (spread * self.temperature(at) for at in (share, share + steps / expected))
            orders = search.matrix.anneal(orders, steps, hot, cold, search.rng.integers(2**62, size=self.chains))
            for order in orders:
                search.offer(order)
            search.evaluations += steps * self.chains

    def temperature(self, share: float) -> float:
        """The temperature when ``share`` of the way is gone, in spreads of a swap's gain."""
        return float(self.hot * (self.cold / self.hot) ** share)
