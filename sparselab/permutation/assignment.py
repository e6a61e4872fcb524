"""Linear sum assignment to convergence, from the order given or from a snake.

The snake is the start of Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language
Models" (ICLR 2024), section 3.2 (RIA): channels ranked by their sum are dealt to the groups forth and back, so that
strong ones do not meet; then assignments, one channel per group, refine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparselab.permutation.problem import Order
from sparselab.permutation.strategy import Search

_MOVES = 8  # between looks at whether anything still improves
_PATIENCE = 4  # looks without a gain, in units of M
_ROUNDING = 1e-7
STARTS = ("identity", "snake")


@dataclass(frozen=True)
class Assignment:
    """Deal one channel of every group back by the best assignment, on random slots, until that gains no more.

    ``start`` is ``"identity"`` (the order given) or ``"snake"``.
    """

    start: str = "identity"

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"strategy 'assignment': start must be one of {', '.join(STARTS)}, got {self.start!r}")

    def __call__(self, search: Search) -> None:
        """Converged when ``4 M`` looks, 8 moves apart, saw no gain: each slot was tried some 32 times by then."""
        order = snake(search) if self.start == "snake" else search.best
        search.offer(order)
        value, idle = search.matrix.retained(order), 0
        while idle < _PATIENCE * search.matrix.m and search.running():
            seeds = search.rng.integers(2**62, size=1)
            order = search.matrix.assign(order[None], np.zeros(_MOVES), seeds)[0]
            search.evaluations += _MOVES
            reached = search.matrix.retained(order)
            search.offer(order, reached)
            idle = 0 if reached > value * (1 + _ROUNDING) else idle + 1
            value = max(value, reached)

    def toy(self) -> Assignment:
        """See ``OffersToy``, a descent being short."""
        return self


def snake(search: Search) -> Order:
    """Channels by falling sum, dealt to the groups forth and back."""
    m, groups = search.matrix.m, search.groups
    ranked = np.argsort(-search.matrix.channel_sums(), kind="stable").reshape(m, groups)
    ranked[1::2] = ranked[1::2, ::-1].copy()
    return np.ascontiguousarray(ranked.T).ravel().astype(np.int64)
