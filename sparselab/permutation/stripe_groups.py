"""Exhaustive search inside small sets of groups: the method of the paper.

Pool and Yu, "Channel Permutations for N:M Sparsity" (NeurIPS 2021), section 4. For every set of two or three groups
the best partition of its channels is known; the best improvement is made first, then the next best in a set that no
earlier one changed, and only sets that a change touched are scored again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from math import comb, factorial

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.threads import row_blocks
from sparselab.permutation.option_checks import require_at_least
from sparselab.permutation.problem import Order
from sparselab.permutation.strategy import Search

Ints = NDArray[np.int64]

MAX_PARTITIONS = 20_000
MAX_SETS = 50_000  # sets of groups held at once; above it they are drawn
_DRAWN = 2048  # sets drawn per round
_PATIENCE = 4  # rounds of drawn sets without a gain before it counts as converged
_SCORES = 2**31  # rows of groups that are scored between looks at the clock: tenths of a second
_LEAST_SETS = 256  # ... but for so many sets, which keep all threads busy
_SLOW_SCORES, _SLOW_SETS = 2**21, 16  # the same where masks are chosen in both directions, or errors are summed
_TOY_ESCAPES = 100
_ROUNDING = 1e-6  # relative to the mean group: a smaller gain is rounding


@dataclass(frozen=True)
class StripeGroups:
    """Best partitions of every ``size`` channels (whole groups) to convergence, then ``escapes`` times a random kick.

    ``size`` is a multiple of M; ``None`` means two groups. A kick swaps one channel between the halves of a random set.
    The best order ever met is kept. Where there are more than 50,000 sets, 2,048 random ones are scored per round until
    four rounds in a row gain nothing.
    """

    size: int | None = None
    escapes: int = 0

    def __post_init__(self) -> None:
        require_at_least(0, "stripe_groups", escapes=self.escapes)

    def __call__(self, search: Search) -> None:
        """Descend, kick, descend ..."""
        m = search.matrix.m
        size = 2 * m if self.size is None else self.size
        _check(size, m)
        members = min(size // m, search.groups)
        if comb(search.groups, members) <= MAX_SETS:
            sets = np.array(list(combinations(range(search.groups), members)), np.int64)
            _descend(search, sets, self.escapes)
        else:
            _descend_drawn(search, members, self.escapes)

    def toy(self) -> StripeGroups:
        """See ``OffersToy``: escapes enough to meet every way of scoring sets."""
        return replace(self, escapes=min(self.escapes, _TOY_ESCAPES))


def _check(size: int, m: int) -> None:
    if size < 2 * m or size % m:
        raise ValueError(
            f"strategy 'stripe_groups': size={size} must be a multiple of M={m}, two groups ({2 * m}) at least"
        )
    count = factorial(size) // (factorial(m) ** (size // m) * factorial(size // m))
    if count > MAX_PARTITIONS:
        raise ValueError(
            f"strategy 'stripe_groups': {size} channels have {count:,} partitions into groups of {m}, the limit is "
            f"{MAX_PARTITIONS:,}: take a smaller size, or 'annealed_assignment'"
        )


@lru_cache(maxsize=8)
def partitions(size: int, m: int) -> tuple[Ints, Ints]:
    """All ``m``-subsets of ``size`` channels, and every partition as indices of its subsets, groups by first member.

    Scoring each subset once and looking partitions up in that table is what
    makes three groups affordable: 495 sums for 5,775 partitions.

    >>> [len(part) for part in partitions(12, 4)]
    [495, 5775]
    """
    subsets = list(combinations(range(size), m))
    number = {subset: k for k, subset in enumerate(subsets)}

    def split(left: tuple[int, ...]) -> list[tuple[int, ...]]:
        if not left:
            return [()]
        first, rest = left[0], left[1:]
        found = []
        for others in combinations(rest, m - 1):
            remaining = tuple(channel for channel in rest if channel not in others)
            found += [(number[(first, *others)], *tail) for tail in split(remaining)]
        return found

    return np.array(subsets, np.int64), np.array(split(tuple(range(size))), np.int64)


def _solve(search: Search, order: Order, sets: Ints) -> tuple[NDArray[np.float64], Ints]:
    """For each of ``sets`` the gain of its best partition, and that partition as channels ``(sets, size)``.

    Sets that there is no time for gain nothing.
    """
    m = search.matrix.m
    subsets, parts = partitions(sets.shape[1] * m, m)
    gains, dealt = np.zeros(len(sets)), np.zeros((len(sets), sets.shape[1] * m), np.int64)
    slow = search.matrix.overhead > 0
    scores, least = (_SLOW_SCORES, _SLOW_SETS) if slow else (_SCORES, _LEAST_SETS)
    at_once = max(least, scores // (len(subsets) * max(1, search.matrix.rows)))
    for part in row_blocks(len(sets), at_once):
        if not search.running():
            break
        gains[part], dealt[part] = search.matrix.best_partitions(order, sets[part], subsets, parts)
        search.evaluations += len(sets[part])
    return gains, dealt


def _apply(order: Order, sets: Ints, gains: NDArray[np.float64], dealt: Ints, least: float, m: int) -> Ints:
    """Make the improvements above ``least``, best first, each in groups that no earlier one dealt; those dealt.

    A set counts as dealt whole, even where one of its groups stays what it was: so do the authors' results, which a
    rule that frees such a group would not reproduce.
    """
    groups = order.reshape(-1, m)
    changed = np.zeros(len(groups), bool)
    wanted = np.flatnonzero(gains > least)
    for number in wanted[np.argsort(-gains[wanted], kind="stable")]:
        chosen = sets[number]
        if not changed[chosen].any():
            groups[chosen] = dealt[number].reshape(-1, m)
            changed[chosen] = True
    return np.flatnonzero(changed)


def _least(search: Search) -> float:
    return _ROUNDING * search.matrix.retained(search.best) / search.groups


def _kick(search: Search, order: Order, chosen: Ints) -> Ints:
    """Swap a random channel of the first half of a set's groups with one of the second half.

    In place; returns the groups that changed.
    """
    m, middle = search.matrix.m, len(chosen) // 2
    one, two = search.rng.choice(chosen[:middle]), search.rng.choice(chosen[middle:])
    slots = [one * m + search.rng.integers(m), two * m + search.rng.integers(m)]
    order[slots] = order[slots[::-1]]
    return np.array([one, two])


def _descend(search: Search, sets: Ints, escapes: int) -> None:
    order, least = search.best.copy(), _least(search)
    gains, dealt = _solve(search, order, sets)
    idle = 0
    while True:
        changed = _apply(order, sets, gains, dealt, least, search.matrix.m)
        if not len(changed) or idle > _PATIENCE * len(order):
            idle = 0
            if escapes == 0:
                return
            escapes -= 1
            changed = _kick(search, order, sets[search.rng.integers(len(sets))])
        idle = 0 if search.offer(order) else idle + 1
        if not search.running():
            return
        stale = np.isin(sets, changed).any(axis=1)
        gains[stale], dealt[stale] = _solve(search, order, sets[stale])


def _descend_drawn(search: Search, members: int, escapes: int) -> None:
    order, least, idle = search.best.copy(), _least(search), 0
    while search.running():
        sets = np.stack([search.rng.choice(search.groups, members, replace=False) for _ in range(_DRAWN)])
        changed = _apply(order, sets, *_solve(search, order, sets), least, search.matrix.m)
        search.offer(order)
        idle = 0 if len(changed) else idle + 1
        if idle == _PATIENCE:
            if escapes == 0:
                return
            escapes, idle = escapes - 1, 0
            _kick(search, order, sets[0])
