"""The strategy for those who do not want to choose one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparselab.ops.matrix import HasStandIn
from sparselab.permutation import exhaustive, optimal
from sparselab.permutation.annealed_assignment import AnnealedAssignment, move_seconds
from sparselab.permutation.channel_swap import WINDOW, ChannelSwap
from sparselab.permutation.covering import Covering
from sparselab.permutation.exhaustive import Exhaustive
from sparselab.permutation.optimal import Optimal
from sparselab.permutation.option_checks import require_at_least, require_temperatures
from sparselab.permutation.strategy import Search

_PROOF_SECONDS = 8.0  # a limit from which a proof at 64 channels usually fits
_DESCENT = 384  # moves of an anneal beside which a descent from its best takes little time
_RUGGED = 64  # channels up to which more chains find more than longer chains
_CHAINS = 8
_MOST_CHAINS = 32  # beyond which time is better spent on longer ones
_MANY_CHANNELS = 2.0  # seconds: from 2048 channels on a move is so long that even a descent takes a while
_GREEDY = 256  # channels up to which greedy swaps cost nothing beside the rest


@dataclass(frozen=True)
class Auto:
    """The best order that a moderate amount of work buys: tenths of a second up to 256 channels, seconds at 2048.

    Up to 16 channels the proven optimum. Above, greedy swaps (up to 256 channels), annealed
    assignment, and greedy swaps from its best. How many moves that is follows from the matrix's
    shape alone, not from a clock, so a seed decides the order. A time limit is filled with anneals
    that grow, each followed by greedy swaps; a longer limit does what a shorter one does, and then
    more. From 8 s on up to 64 channels are solved to a proven optimum.

    ``chains`` is how many anneal above 64 channels; ``None`` stands for two, or, with a time limit,
    for as many as run side by side. ``effort`` is how many times the usual moves each makes. ``hot`` is the
    first temperature without a time limit (``AnnealedAssignment``).
    """

    chains: int | None = None
    effort: float = 1.0
    hot: float | None = None

    def __post_init__(self) -> None:
        require_at_least(1, "auto", chains=1 if self.chains is None else self.chains)
        require_temperatures("auto", hot=self.hot)
        if not 0 < self.effort < math.inf:
            raise ValueError(f"strategy 'auto': effort must be positive and finite, got {self.effort}")

    def __call__(self, search: Search) -> None:
        """Choose by size, then search."""
        channels, limit = search.matrix.channels, search.time_limit
        if channels <= exhaustive.MAX_CHANNELS:
            Exhaustive()(search)
            return
        provable = channels <= optimal.MAX_CHANNELS and Covering.fits(channels, search.matrix.m)
        if provable and limit is not None and limit >= _PROOF_SECONDS:
            Optimal()(search)
            return
        if isinstance(search.matrix, HasStandIn):
            self._once(search.beginning(search.matrix.stand_in))
        if limit is None:
            self._once(search)
        else:
            self._until_time_is_up(search)

    def _once(self, search: Search) -> None:
        if search.matrix.channels <= _GREEDY:
            ChannelSwap()(search)
        AnnealedAssignment(math.ceil(self.effort * moves(search)), self._chains(search), self.hot).once(search)
        if search.matrix.channels <= WINDOW:
            ChannelSwap()(search)

    def _until_time_is_up(self, search: Search) -> None:
        """The same anneals and descents whatever the limit, and as many of them as there is time for."""
        for made in AnnealedAssignment(chains=self._chains(search)).growing(search):
            if made >= _DESCENT and search.matrix.channels <= WINDOW:
                ChannelSwap()(search)

    def _chains(self, search: Search) -> int:
        if search.matrix.channels <= _RUGGED:
            least = _CHAINS
        elif self.chains is not None:
            return self.chains
        else:
            least = 2
        return least if search.time_limit is None else max(least, min(search.matrix.side_by_side, _MOST_CHAINS))

    def toy(self) -> Auto:
        """See ``OffersToy``, its work following from the size."""
        return self


def usual_seconds(rows: int, channels: int) -> float:
    """How long a search without a time limit should take: with few rows, or few channels, it converges sooner.

    On two free cores of their own; where two share one, chains take turns and it is about twice that.

    >>> [round(usual_seconds(size, size), 2) for size in (64, 512, 2048)]
    [0.03, 0.16, 1.27]
    """
    short, long = sorted((max(1, rows), channels))
    size: float = short**0.75 * long**0.25
    many = min(_MANY_CHANNELS, 0.2 * (channels / 2048) ** 3)
    return max(0.03, 0.007 * math.pow(size / 64, 1.5), many)


def moves(search: Search) -> int:
    """How many assignment moves of each chain fill the usual seconds on a usual core of 2025."""
    seconds = usual_seconds(search.matrix.rows, search.matrix.channels)
    return int(min(40_000, max(24, seconds / move_seconds(search.matrix))))
