"""Annealing on bytes: swaps one at a time, or one channel of every group dealt back at once.

Both work on some ``groups`` of an order and leave the rest alone, so that threads can anneal disjoint groups of one
order at the same time. Sums are integers: the same moves on every machine. Gains and temperatures are in *differences*,
which is twice the bytes' unit (``sum |b - x|`` counts what a move adds twice).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.cpu.differences import TILE, Bytes, Sums, pair, product
from sparselab.ops.cpu.matching import match
from sparselab.ops.jit import jit
from sparselab.ops.matrix import Ints

State = NDArray[np.uint64]


@jit
def random_bits(state: State) -> int:
    """64 random bits (splitmix64: Steele, Lea and Flood, OOPSLA 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    bits = state[0]
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))  # type: ignore[no-any-return]


@jit
def random_below(state: State, limit: int) -> int:
    """An integer in ``[0, limit)``, ``limit`` below 2^31."""
    return np.int64(((random_bits(state) >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))  # type: ignore[return-value]


@jit
def random_exponential(state: State) -> float:
    """An Exp(1) variate."""
    return -math.log((np.float64(random_bits(state) >> np.uint64(11)) + 0.5) * 2.0**-53)


@jit
def _middle(scores: Bytes, a: int, b: int, c: int, out: Bytes, k: int) -> None:
    """The median of three bytes per row into ``out[k]``.

    That is the boundary at 2:4, the case that is asked for most. Takes whole arrays, because a view
    of a row takes as long as the row.
    """
    for r in range(np.uint64(scores.shape[1])):
        x, y = min(scores[a, r], scores[b, r]), max(scores[a, r], scores[b, r])
        out[k, r] = max(x, min(y, scores[c, r]))


@jit
def _copy(scores: Bytes, channel: int, out: Bytes, k: int) -> None:
    for r in range(np.uint64(scores.shape[1])):
        out[k, r] = scores[channel, r]


@jit
def _keep_larger(held: Bytes, new: Bytes, passed: Bytes) -> None:
    """``held`` keeps the larger byte of each row, ``passed`` gets the smaller."""
    for r in range(np.uint64(len(held))):
        a, b = held[r], new[r]
        held[r] = max(a, b)
        passed[r] = min(a, b)


@jit
def _exchange(held: Bytes, passed: Bytes) -> None:
    """The larger byte of each row to ``held``, the smaller to ``passed``."""
    for r in range(np.uint64(len(held))):
        a, b = held[r], passed[r]
        held[r] = max(a, b)
        passed[r] = min(a, b)


@jit
def _largest(scores: Bytes, group: Ints, skip: int, n: int, top: Bytes) -> None:
    """The ``n`` largest bytes per row of ``group`` without its member ``skip``, falling, into ``top``."""
    top[:n] = 0
    for member in range(len(group)):
        if member == skip:
            continue
        _keep_larger(top[0], scores[group[member]], top[n])
        for k in range(1, n):
            _exchange(top[k], top[n])


@jit
def _boundary(scores: Bytes, group: Ints, skip: int, n: int, top: Bytes, out: Bytes, k: int) -> None:
    """The ``n``-th largest byte per row of ``group`` without its member ``skip``, into ``out[k]``."""
    if n == 2 and len(group) == 4:
        _middle(scores, group[(skip + 1) % 4], group[(skip + 2) % 4], group[(skip + 3) % 4], out, k)
    else:
        _largest(scores, group, skip, n, top)
        _copy(top, n - 1, out, k)


@jit
def deal(scores: Bytes, order: Ints, groups: Ints, n: int, m: int, noise: NDArray[np.float64], seed: int) -> int:
    """``len(noise)`` assignment moves among ``groups`` of ``order``, in place; the gain, in differences.

    Each takes a random slot of every group and deals their channels back by the best linear sum assignment, staying put
    being charged ``noise[k] * Exp(1)``.
    """
    count, width = len(groups), scores.shape[1]
    padded = (count + TILE - 1) // TILE * TILE
    bounds = np.zeros((padded, width), np.uint8)
    dealt = np.zeros((padded, width), np.uint8)
    sums = np.empty((padded, padded), np.int32)
    top = np.empty((n + 1, width), np.uint8)
    slots = np.empty(count, np.int64)
    channels = np.empty(count, np.int64)
    stay = np.empty(count, np.int32)
    target = np.empty(count, np.int32)
    state = np.array([seed], np.uint64)
    gain = 0
    for temperature in noise:
        for g in range(count):
            first = groups[g] * m
            member = random_below(state, m)
            slots[g] = first + member
            channels[g] = order[slots[g]]
            _boundary(scores, order[first : first + m], member, n, top, bounds, g)
            _copy(scores, channels[g], dealt, g)
        product(bounds, dealt, sums)
        for g in range(count):
            stay[g] = sums[g, g]
            row = sums[g]
            for h in range(np.uint64(count)):
                row[h] = stay[g] - row[h]
            row[g] = np.int32(temperature * random_exponential(state))
        match(sums, count, target)
        for g in range(count):
            if target[g] != g:
                gain -= sums[g, target[g]]
                order[slots[g]] = channels[target[g]]
    return gain


@jit
def _refresh(scores: Bytes, order: Ints, group: int, n: int, m: int, bounds: Bytes, own: Sums, top: Bytes) -> None:
    """Boundaries of all slots of a group, and each slot's difference to its own channel."""
    first = group * m
    members = order[first : first + m]
    if n == 2 and m == 4:
        for member in range(m):
            _boundary(scores, members, member, n, top, bounds, first + member)
    else:
        _largest(scores, members, -1, n + 1, top)
        for member in range(m):
            _without(scores[members[member]], top[n - 1], top[n], bounds[first + member])
    for member in range(m):
        own[first + member] = pair(bounds, first + member, scores, members[member])


@jit
def _without(column: Bytes, last: Bytes, following: Bytes, out: Bytes) -> None:
    """A row's boundary without ``column``: where that was among the n largest, the next one moves up."""
    for r in range(np.uint64(len(out))):
        out[r] = following[r] if column[r] >= last[r] else last[r]


@jit
def swap(
    scores: Bytes, order: Ints, groups: Ints, n: int, m: int, steps: int, hot: float, cold: float, seed: int
) -> int:
    """Anneal ``order`` in place by ``steps`` swaps among ``groups``.

    Returns the gain, in differences. ``order`` ends as the best that was met. Temperature falls
    geometrically from ``hot`` to ``cold``; 0 for both is descent.
    """
    width, count = scores.shape[1], len(groups)
    bounds = np.empty((len(order), width), np.uint8)
    own = np.empty(len(order), np.int32)
    top = np.empty((n + 2, width), np.uint8)
    best = order.copy()
    state = np.array([seed], np.uint64)
    for group in groups:
        _refresh(scores, order, group, n, m, bounds, own, top)
    gain = most = 0
    temperature, cooling, every = hot, 1.0, 64
    if hot > 0:
        cooling = (cold / hot) ** (every / max(steps, 1))
    for step in range(steps):
        if step % every == 0:
            temperature *= cooling
        g = random_below(state, count)
        h = random_below(state, count - 1)
        h += h >= g
        p = groups[g] * m + random_below(state, m)
        q = groups[h] * m + random_below(state, m)
        change = pair(bounds, p, scores, order[q]) + pair(bounds, q, scores, order[p]) - own[p] - own[q]
        if change <= 0 and not change + temperature * random_exponential(state) > 0:
            continue
        order[p], order[q] = order[q], order[p]
        _refresh(scores, order, groups[g], n, m, bounds, own, top)
        _refresh(scores, order, groups[h], n, m, bounds, own, top)
        gain += change
        if gain > most:
            most = gain
            best[:] = order
    order[:] = best
    return most
