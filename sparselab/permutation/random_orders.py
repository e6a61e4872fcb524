"""Random orders: what permuting gains without searching."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.permutation.strategy import Search


@dataclass(frozen=True)
class RandomOrders:
    """Score ``tries`` uniformly random orders and keep the best."""

    tries: int = 1000

    def __post_init__(self) -> None:
        if self.tries < 0:
            raise ValueError(f"strategy 'random': tries must not be negative, got {self.tries}")

    def __call__(self, search: Search) -> None:
        """One order a try, until there is no time left."""
        for _ in range(self.tries):
            if not search.running():
                return
            search.offer(search.rng.permutation(search.matrix.channels))
            search.evaluations += 1
