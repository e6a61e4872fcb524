"""Simulated annealing over swaps of two channels: the plainest search that leaves local optima."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparselab.permutation.annealed_assignment import swap_spread
from sparselab.permutation.strategy import Search


@dataclass(frozen=True)
class Anneal:
    """``steps`` random swaps in each of ``chains`` independent chains, temperature falling from ``hot`` to ``cold``.

    Temperatures are in spreads of a random swap's gain. With a time limit, anneals from the order given are repeated
    until it is over, each twice as long as the one before.
    """

    steps: int = 500_000
    chains: int = 2
    hot: float = 0.3
    cold: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.chains < 1:
            raise ValueError(f"strategy 'anneal': steps and chains must be at least 1, got {self}")
        if not 0 < self.cold <= self.hot:
            raise ValueError(f"strategy 'anneal': temperatures must be 0 < cold <= hot, got {self}")

    def __call__(self, search: Search) -> None:
        """Anneal, and as long as there is a limit and time, anneal longer."""
        start = np.tile(search.best, (self.chains, 1))
        spread = swap_spread(search, search.best)
        steps = self.steps
        while search.running():
            seeds = search.rng.integers(2**62, size=self.chains)
            for order in search.handle.anneal(start, steps, self.hot * spread, self.cold * spread, seeds):
                search.offer(order)
            search.evaluations += steps * self.chains
            if search.time_limit is None:
                return
            steps *= 2
