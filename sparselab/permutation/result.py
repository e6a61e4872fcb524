"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.core import measures
from sparselab.permutation.problem import Order


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best order that a search found, and what it is worth.

    ``order`` is int64 ``(size,)``: position ``p`` gets the unit that was at ``order[p]``, so ``permuted =
    matrix[:, order]``. ``baseline``, ``retained`` and ``ideal`` are saliency sums counted in float64: in the order
    given, in the order found, and keeping the best N/M of every row with no structure. ``evaluations`` counts scored
    groups and moves, in each strategy's own unit. ``history`` holds ``(seconds, retained)`` at every improvement: it
    starts at ``baseline``, never falls and ends at ``retained``; what lies between is counted in float32.
    ``upper_bound`` is what no order can exceed, where ``bound=True`` asked for it or the strategy proved it.
    ``interrupted`` says that a ``KeyboardInterrupt`` ended the search.
    """

    order: Order
    baseline: float
    retained: float
    ideal: float
    seconds: float
    evaluations: int
    strategy: str
    backend: str
    pattern: str
    seed: int
    history: tuple[tuple[float, float], ...] = ()
    upper_bound: float | None = None
    interrupted: bool = False

    @property
    def efficacy(self) -> float:
        """Percent of the way from the order given to the ideal; 100 where there is no way to go."""
        return measures.efficacy(self.retained, self.baseline, self.ideal)

    @property
    def gap(self) -> float | None:
        """How much more saliency a better order could retain at most, relative to ``retained``; ``None`` if unbounded.

        0 means that the order is proven the best there is, to the rounding of the bound (1e-6 relative).
        """
        if self.upper_bound is None:
            return None
        return max(0.0, self.upper_bound - self.retained) / self.retained if self.retained else 0.0

    @property
    def bound_efficacy(self) -> float | None:
        """The efficacy that ``upper_bound`` stands for, or ``None`` without one."""
        return None if self.upper_bound is None else measures.efficacy(self.upper_bound, self.baseline, self.ideal)

    def __repr__(self) -> str:
        most = "" if self.bound_efficacy is None else f" of at most {self.bound_efficacy:.1f}"
        ended = ", interrupted" if self.interrupted else ""
        return (
            f"<SearchResult: efficacy {self.efficacy:.1f}{most} for {self.pattern}, {len(self.order)} channels, by "
            f"{self.strategy} in {self.seconds:.2g} s{ended}>"
        )
