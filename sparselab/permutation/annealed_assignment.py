"""Annealed assignment: every group gives up one channel, and all are dealt back at once, best deal first, with noise.

A swap moves two channels. This moves as many as there are groups, and still makes the best of all
(C/M)! deals: take the channel out of one random slot of every group; what group ``i`` would retain
with channel ``x`` in its empty slot is ``base[i] + T[i, x]`` (``sparselab.ops.cpu.tables``), so the
best deal is a linear sum assignment on that matrix. Repeated on fresh random slots it is a strong
local search, and it stops in a local optimum.

To leave it, the matrix is made to lie: *staying put* is charged ``tau * Exp(1)``, drawn anew for
each slot and move. That is Metropolis' rule for all groups at once (a slot moves if the gain beats
the noise), the assignment keeps the sum of all changes the best there is, and ``tau`` falls
geometrically to where nothing moves any more. The last moves are without noise.

Temperatures are in units of the spread of random swaps' gains, so they fit any matrix. More moves
allow a hotter start. With a time limit, anneals of 24, 72, 216 ... moves follow each other until time is up. What a longer limit does begins with all that a shorter one does, so
more time is never worse. Chains run side by side, as many as are asked for, whatever the number of
threads; the best end wins. From four chains on they hand on: between rounds the worst quarter goes
on from the best quarter (Hukushima and Iba 2003, without the weights).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sparselab.ops.matrix import Doubles, Ints, LoadedMatrix
from sparselab.permutation.option_checks import require_at_least, require_temperatures
from sparselab.permutation.problem import Order
from sparselab.permutation.rounds import rounds
from sparselab.permutation.strategy import Search

QUIET = 0.07  # the share of moves at the end that is made without noise
_SAMPLE = 512
_FIRST, _GROWTH = 24, 3  # moves of the first anneal under a time limit, and how many times longer each next one is
_POPULATION = 4  # chains from which on they hand on
_LOOK = 0.02  # usual seconds


@dataclass(frozen=True)
class AnnealedAssignment:
    """``moves`` annealed assignments in each of ``chains`` chains; the best order of all.

    With a time limit anneals that grow fill the time, whatever ``moves``. ``hot`` and ``cold`` are the first and
    last temperature in spreads of a random swap's gain; ``None`` derives them from the number of moves.
    """

    moves: int = 2000
    chains: int = 2
    hot: float | None = None
    cold: float | None = None

    def __post_init__(self) -> None:
        require_at_least(1, "annealed_assignment", moves=self.moves, chains=self.chains)
        require_temperatures("annealed_assignment", hot=self.hot, cold=self.cold)

    def __call__(self, search: Search) -> None:
        """Cool down once, over all moves, or again and again for as long as there is time."""
        if search.time_limit is None:
            self.once(search)
        else:
            for _ in self.growing(search):
                pass

    def toy(self) -> AnnealedAssignment:
        """See ``OffersToy``: a few moves."""
        return replace(self, moves=100, chains=1)

    def once(self, search: Search) -> None:
        """Cool down once from the best order so far."""
        self.cool(search, self._from_the_best(search))

    def growing(self, search: Search) -> Iterator[int]:
        """Cool down again and again, each time with three times the moves, yielding their number.

        Nothing in it depends on the time limit but where it ends. Chains that hand on begin at random orders, for
        then they differ; fewer begin at the best order so far.
        """
        moves = _FIRST
        while search.running():
            orders = self._at_random(search) if self.chains >= _POPULATION else self._from_the_best(search)
            replace(self, moves=moves).cool(search, orders)
            yield moves
            moves *= _GROWTH

    def _from_the_best(self, search: Search) -> Ints:
        return np.tile(search.best, (self.chains, 1))

    def _at_random(self, search: Search) -> Ints:
        return np.stack([search.rng.permutation(search.matrix.channels) for _ in range(self.chains)])

    def cool(self, search: Search, orders: Ints) -> None:
        """Cool every chain down once from its order, over all moves, unless time is up before."""
        spread, looks = swap_spread(search, search.best), self._between_looks(search)
        for share, moves, expected in rounds(search, self.moves, None):
            noise = spread * self.temperatures(share, moves, expected)
            for start in range(0, moves, looks):
                if not search.running():
                    return
                seeds = search.rng.integers(2**62, size=self.chains)
                orders = search.matrix.assign(orders, noise[start : start + looks], seeds)
                values = self._offered(search, orders)
                search.evaluations += len(noise[start : start + looks]) * self.chains
            orders = orders[survivors(values)]

    def _offered(self, search: Search, orders: Ints) -> Doubles:
        """Offer every chain's order; what they retain."""
        worth = search.matrix.group_table(orders.reshape(-1, search.matrix.m))
        values: Doubles = worth.reshape(self.chains, -1).sum(axis=1)
        for order, value in zip(orders, values):
            search.offer(order, float(value))
        return values

    def _between_looks(self, search: Search) -> int:
        """How many moves to make between looks at the clock: some hundredths of a second, by the shape alone."""
        if search.time_limit is None:
            return self.moves
        return max(1, int(_LOOK / move_seconds(search.matrix)))

    def temperatures(self, share: float, moves: int, expected: int) -> Doubles:
        """Noise of the next ``moves`` of ``expected``, ``share`` of which are made, in spreads of a swap's gain."""
        hot, cold = self.hot, self.cold
        if hot is None:
            hot = float(np.clip(0.1 * np.sqrt(expected / 1600), 0.005, 0.08))
        if cold is None:
            cold = min(0.025, hot / 3)
        progress = (share + np.arange(moves) / expected) / (1 - QUIET)
        return np.where(progress < 1, hot * (cold / hot) ** progress, 0.0)


def move_seconds(matrix: LoadedMatrix) -> float:
    """How long a move of one chain takes on a usual core of 2025."""
    groups, width = matrix.channels // matrix.m, max(64, matrix.rows)
    product = 3.6e-12 * groups**2 * width
    boundaries = 8e-11 * groups * width * matrix.n * matrix.m
    matching = 1.5e-9 * groups**2 + 3e-6
    return product + boundaries + matching + matrix.overhead


def survivors(values: Doubles) -> Ints:
    """Which chains go on: all by falling value, but in place of the worst quarter the best quarter once more.

    >>> survivors(np.array([3.0, 1.0, 4.0, 2.0])).tolist()
    [2, 0, 3, 2]
    """
    falling = np.argsort(-values, kind="stable")
    quarter = len(values) // 4
    return np.concatenate([falling[: len(values) - quarter], falling[:quarter]])


def swap_spread(search: Search, order: Order) -> float:
    """The standard deviation of what swapping two random channels of different groups adds."""
    m, rng = search.matrix.m, search.rng
    one = rng.integers(search.groups, size=_SAMPLE)
    two = (one + rng.integers(1, search.groups, size=_SAMPLE)) % search.groups
    groups = order.reshape(-1, m)
    value = search.matrix.group_table(groups)
    left, right = groups[one], groups[two]
    slot = rng.integers(m, size=(2, _SAMPLE))
    row = np.arange(_SAMPLE)
    left[row, slot[0]], right[row, slot[1]] = right[row, slot[1]], left[row, slot[0]]
    gains = search.matrix.group_table(left) + search.matrix.group_table(right) - value[one] - value[two]
    return float(gains.std())
