"""Questions of the paper's test tool: how sparse must a matrix be, and what lies between two orders?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparselab.core.patterns import Pattern
from sparselab.permutation.problem import Matrix, Order, SearchProblem
from sparselab.permutation.result import SearchResult


def prune_smallest(matrix: Matrix, share: float) -> Matrix:
    """A copy of ``matrix`` with the smallest ``share`` of its entries, by magnitude, set to zero.

    Ties go by position. Raises ``ValueError`` unless ``0 <= share <= 1``.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"an unstructured sparsity lies between 0 and 1, got {share}")
    pruned = np.array(matrix)
    smallest = np.argsort(np.abs(pruned), axis=None, kind="stable")[: round(share * pruned.size)]
    pruned.flat[smallest] = 0
    return pruned


def minimum_sparsity(matrix: Matrix, search: Callable[[Matrix], SearchResult]) -> int | None:
    """The least unstructured sparsity, in whole percent, from which ``search`` finds an order that loses nothing.

    By bisection, as in the paper's tool, which supposes that sparser is easier. ``None`` if even
    zeros alone lose something.
    """
    low, high = 0, 101
    while low < high:
        middle = (low + high) // 2
        if middle > 100:
            return None
        pruned = prune_smallest(matrix, middle / 100)
        total = float(np.abs(pruned).sum(dtype=np.float64))
        if search(pruned).retained >= total * (1 - 1e-9):
            high = middle
        else:
            low = middle + 1
    return low if low <= 100 else None


def intermediate_orders(problem: SearchProblem, order: Order, pattern: str | Pattern, count: int) -> list[Order]:
    """``count`` orders on a way from the order given to ``order``, about evenly spaced in what they retain.

    The way puts one channel after the other into its place by a swap; of the orders on it those
    nearest to the targets are taken. Deterministic. Costs up to one scoring of the matrix per
    channel.
    """
    if count < 1:
        raise ValueError(f"the number of intermediate steps must be at least 1, got {count}")
    way = [np.arange(problem.size)]
    for slot, channel in enumerate(order):
        if way[-1][slot] != channel:
            step = way[-1].copy()
            there = int(np.flatnonzero(step == channel)[0])
            step[slot], step[there] = step[there], step[slot]
            way.append(step)
    retained = np.array([problem.retained(each, pattern) for each in way])
    targets = np.linspace(retained[0], retained[-1], count + 2)[1:-1]
    return [way[int(np.abs(retained - target).argmin())] for target in targets]
