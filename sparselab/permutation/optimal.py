"""The proven optimum of a few dozen channels, or the best order and how far from the optimum it can be."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from sparselab.permutation.annealed_assignment import AnnealedAssignment
from sparselab.permutation.covering import Covering, best_cover
from sparselab.permutation.strategy import Search

MAX_CHANNELS = 64
_MAX_COLUMNS = 300_000
_STARTS = 8
_MOVES = 20_000  # at 64 channels, 0.3 s; the better the order, the fewer groups are left to the integer program
_FEWEST_MOVES = 200


@dataclass(frozen=True)
class Optimal:
    """An order, a bound, and an integer program over what lies between them.

    Annealed assignment gives an order worth ``v``, the linear program over all groups a bound ``u``
    and a price for every channel. A group whose reduced gain is below ``v - u`` is in no better
    order; what is left, some thousands of 635,376 at 64 channels, an integer program (HiGHS) can
    cover exactly. At the time limit the best order so far comes back with the gap that is still
    open. Refuses more than 64 channels.
    """

    def __call__(self, search: Search) -> None:
        """Anneal, bound, cover."""
        matrix = search.matrix
        if matrix.channels > MAX_CHANNELS or not Covering.fits(matrix.channels, matrix.m):
            raise ValueError(
                f"strategy 'optimal' takes up to {MAX_CHANNELS} channels in groups of up to 4, got {matrix.channels} in "
                f"groups of {matrix.m}: 'auto' finds good orders of any number, and search_permutation(bound=True) says how good"
            )
        AnnealedAssignment(moves=_moves(matrix.channels, matrix.m), chains=_STARTS).once(search)
        covering = Covering(matrix, search.running)
        covering.solve(np.stack([np.arange(matrix.channels), search.best]))
        columns = covering.near(min(0.0, matrix.retained(search.best) - covering.bound))
        search.prove(covering.bound)
        if len(columns) > _MAX_COLUMNS or not search.running():
            return
        order, bound = best_cover(columns, matrix.group_table(columns), matrix.channels, search.left())
        if order is not None:
            search.offer(order)
        search.prove(max(bound, matrix.retained(search.best)))

    def toy(self) -> Optimal:
        """See ``OffersToy``."""
        return self


def _moves(channels: int, m: int) -> int:
    """Annealing moves in proportion to the groups to be priced: few groups are soon covered from any order.

    >>> [_moves(channels, 4) for channels in (12, 32, 64)]
    [200, 1131, 20000]
    """
    return min(_MOVES, max(_FEWEST_MOVES, _MOVES * comb(channels, m) // comb(MAX_CHANNELS, 4)))
