"""Random orders: what permuting gains without searching."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparselab.permutation.option_checks import require_at_least
from sparselab.permutation.strategy import Search


@dataclass(frozen=True)
class RandomOrders:
    """Score ``tries`` uniformly random orders and keep the best."""

    tries: int = 1000

    def __post_init__(self) -> None:
        require_at_least(0, "random", tries=self.tries)

    def __call__(self, search: Search) -> None:
        """Offer one order per try, until there is no time left."""
        for _ in range(self.tries):
            if not search.running():
                return
            search.offer(search.rng.permutation(search.matrix.channels))
            search.evaluations += 1

    def toy(self) -> RandomOrders:
        """See ``OffersToy``: one try."""
        return replace(self, tries=1)
