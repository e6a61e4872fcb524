"""Simulated annealing over swaps of two channels: the plainest search that leaves local optima."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparselab.permutation.annealed_assignment import swap_spread
from sparselab.permutation.option_checks import require_at_least, require_temperatures
from sparselab.permutation.rounds import rounds
from sparselab.permutation.strategy import Search


@dataclass(frozen=True)
class Anneal:
    """``steps`` random swaps in each of ``chains`` independent chains, temperature falling from ``hot`` to ``cold``.

    Temperatures are in spreads of a random swap's gain. Chains report now and then, and go on from
    the best order they met since they last did. With a time limit the steps fill the time, whatever
    their number.
    """

    steps: int = 500_000
    chains: int = 2
    hot: float = 0.3
    cold: float = 0.1

    def __post_init__(self) -> None:
        require_at_least(1, "anneal", steps=self.steps, chains=self.chains)
        require_temperatures("anneal", hot=self.hot, cold=self.cold)
        if self.cold > self.hot:
            raise ValueError(f"strategy 'anneal': cold must be at most hot={self.hot}, got {self.cold}")

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

    def toy(self) -> Anneal:
        """See ``OffersToy``: a few swaps."""
        return replace(self, steps=1000, chains=1)

    def temperature(self, share: float) -> float:
        """The temperature when ``share`` of the way is gone, in spreads of a swap's gain."""
        return float(self.hot * (self.cold / self.hot) ** share)
