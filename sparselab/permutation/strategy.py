"""What a strategy is handed while it runs, and the names of the strategies there are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from sparselab.core.registry import Registry
from sparselab.ops.matrix import LoadedMatrix
from sparselab.permutation.problem import Order

_TOO_HIGH = 8e-6  # relative: sums of float32 were seen 7e-6 above the count, for thousands of equal scores

Callback = Callable[[float, float], object]


class Strategy(Protocol):
    """A frozen dataclass whose fields are the options. Called, it leaves what it finds with ``search.offer``."""

    def __call__(self, search: Search) -> None:
        """Search until converged, or until ``search.running()`` says no."""


@runtime_checkable
class OffersToy(Strategy, Protocol):
    """A strategy that can be tried out in a moment, which is how its code is compiled before a clock starts."""

    def toy(self) -> Strategy:
        """A strategy that runs the same code and is soon done: ``self`` with small options."""


@dataclass(eq=False)
class Search:
    """One running search.

    Strategies read ``matrix``, ``rng`` and ``running`` from it, and leave orders with ``offer``.
    ``matrix`` holds the scores that are searched; values are in its units. ``exact``, where given,
    is the value of the whole objective when the matrix is not all of it. ``callback`` hears what
    the best order retains, less what float32 sums may be off by, so never more than is counted in
    the end. A strategy is only called where there are rows and two groups.
    """

    matrix: LoadedMatrix
    rng: np.random.Generator
    started: float
    time_limit: float | None = None
    exact: Callable[[Order], float] | None = None
    callback: Callback | None = None
    best: Order = field(init=False)
    value: float = field(init=False)
    baseline: float = field(init=False)
    upper_bound: float | None = field(init=False, default=None)
    evaluations: int = field(init=False, default=0)
    interrupted: bool = field(init=False, default=False)
    history: list[tuple[float, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.best = np.arange(self.matrix.channels)
        self.value = self.baseline = self._value(self.best)
        self.history = [(self.elapsed(), self.value)]

    @property
    def groups(self) -> int:
        """How many groups there are to fill."""
        return self.matrix.channels // self.matrix.m

    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self.started

    def running(self) -> bool:
        """Whether there is time left."""
        return self.time_limit is None or self.elapsed() < self.time_limit

    def left(self) -> float | None:
        """Seconds until the time limit, or ``None`` without one."""
        return None if self.time_limit is None else self.time_limit - self.elapsed()

    def offer(self, order: Order, retained: float | None = None) -> bool:
        """Keep ``order`` if it is the best so far; ``retained`` is its value where the caller knows it."""
        value = self._value(order, retained)
        better = value > self.value
        if better:
            self.best, self.value = order.astype(np.int64, copy=True), value
            self.history.append((self.elapsed(), value))
        if self.callback is not None:
            self.callback(self.elapsed(), self.value * self.matrix.scale * (1 - _TOO_HIGH))
        return better

    def beginning(self, matrix: LoadedMatrix | None = None, share: float = 1.0) -> Search:
        """A search to begin with, that offers here whatever it finds.

        It is of the same channels, of another ``matrix`` where given, and ends after ``share`` of
        the time that is left, if there is a limit.
        """
        left = self.left()
        limit = None if left is None else self.elapsed() + share * left
        exact = self.exact if matrix is None else None
        first = Search(matrix or self.matrix, self.rng, self.started, limit, exact)
        first.callback = lambda *_: self.offer(first.best)
        return first

    def counted(self, value: float, baseline: float) -> float:
        """``value`` in units of the scores, where the order given is worth ``baseline``."""
        scale = self.matrix.scale
        return value * scale + (baseline - self.baseline * scale)

    def prove(self, bound: float) -> None:
        """Note that no order of the matrix is worth more than ``bound``.

        It is a bound of the problem if the matrix is all of it.
        """
        if self.exact is None and (self.upper_bound is None or bound < self.upper_bound):
            self.upper_bound = bound

    def _value(self, order: Order, retained: float | None = None) -> float:
        if self.exact is not None:
            return self.exact(order) / self.matrix.scale
        return self.matrix.retained(order) if retained is None else retained


STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    {
        "anneal": "sparselab.permutation.anneal:Anneal",
        "assignment": "sparselab.permutation.assignment:Assignment",
        "stripe_groups": "sparselab.permutation.stripe_groups:StripeGroups",
        "annealed_assignment": "sparselab.permutation.annealed_assignment:AnnealedAssignment",
        "auto": "sparselab.permutation.auto:Auto",
        "exhaustive": "sparselab.permutation.exhaustive:Exhaustive",
        "identity": "sparselab.permutation.identity:Identity",
        "learned": "sparselab.permutation.learned:Learned",
        "optimal": "sparselab.permutation.optimal:Optimal",
        "random": "sparselab.permutation.random_orders:RandomOrders",
        "channel_swap": "sparselab.permutation.channel_swap:ChannelSwap",
    },
    aliases={"optimize_stripe_groups": "stripe_groups"},
    group="sparselab.strategies",
)
