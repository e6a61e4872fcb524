"""Orders between two orders: a plan carried out only in part, by so many of the swaps that lead to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparselab.network.plan import Plan
from sparselab.permutation.problem import Order


def swaps_towards(order: Order) -> list[tuple[int, int]]:
    """The swaps of positions that lead from the identity to ``order``, one group of channels after the other.

    >>> swaps_towards(np.array([2, 0, 1]))
    [(0, 2), (1, 2)]
    """
    current = np.arange(len(order))
    place = np.arange(len(order))  # where each channel is now
    swaps = []
    for position, channel in enumerate(order):
        if current[position] == channel:
            continue
        other = int(place[channel])
        swaps.append((position, other))
        current[[position, other]] = current[[other, position]]
        place[current[[position, other]]] = position, other
    return swaps


def order_partway(order: Order, share: float) -> Order:
    """The identity after the first ``share`` (0 to 1) of the swaps that lead to ``order``.

    >>> order_partway(np.array([2, 0, 1]), 0.5).tolist(), order_partway(np.array([2, 0, 1]), 1.0).tolist()
    ([2, 1, 0], [2, 0, 1])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of the way must be between 0 and 1, got {share}")
    swaps = swaps_towards(order)
    current = np.arange(len(order))
    for one, two in swaps[: round(share * len(swaps))]:
        current[[one, two]] = current[[two, one]]
    return current


def plan_partway(plan: Plan, share: float) -> Plan:
    """``plan`` with every axis the same share of its way.

    Tensors of one axis are moved alike, for what becomes of an order depends on it alone. Where one
    dimension holds several units side by side (a flatten before a classifier, a concatenation) that
    does not hold: measure the function.
    """
    return Plan(tuple(replace(move, order=order_partway(move.order, share)) for move in plan.moves))
