"""Orders for transposable masks, for which the rows of a weight matter as much as its columns.

An order of one axis moves the columns of the weights that read it and the rows of those that write
it, and what each of these weights retains depends on its other axis too. So the axes are searched
in turn, all others staying as they are, for as long as that gains. The rows of a weight are
searched as the columns of the transposed weight. A new order is taken only if the masks of the
weights that it touches, counted, retain more than before. So the end is never worse than the start,
which is the better of two: the channels as they are, and the orders for masks along the channels
alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from sparselab.core import weight_matrix
from sparselab.core.layers import LayerWeight
from sparselab.core.patterns import Pattern
from sparselab.core.weight_matrix import to_matrix
from sparselab.network.analysis import Analysis
from sparselab.network.axes import Indices
from sparselab.network.free_axes import Axis, Orders
from sparselab.network.plan import Plan
from sparselab.network.search_problems import Consumer, Scored, placed_problems, touched_columns
from sparselab.permutation import SearchProblem

MAX_ROUNDS = 6
_LEAST_GAIN = 1e-4  # of what is retained: a round that gains less is the last
_ROUNDING = 1e-9

Search = Callable[[SearchProblem, int], Indices]
"""From a problem and its number (which gives its seed) to an order of its units."""


def turned(consumer: Consumer) -> Consumer:
    """The consumer transposed: it reads the axis that the weight writes."""
    layer = consumer.layer
    turned_dim = weight_matrix.turned(len(consumer.member.shape), layer.channel_dim)
    return Consumer(replace(layer, channel_dim=turned_dim), consumer.member)


def touches(axis: Axis, consumer: Consumer) -> bool:
    """Whether the axis moves the columns or the rows of a weight."""
    return consumer.reads(axis) or turned(consumer).reads(axis)


@dataclass(frozen=True, eq=False)
class InTurn:
    """The ``orders`` of axes that were searched in turn, and the ``seconds`` that each took."""

    orders: dict[Axis, Indices]
    seconds: dict[Axis, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TransposableWeights:
    """The weights that a transposable pattern will prune, and the ``axes`` that may move them.

    ``scores`` are those of each weight, by its name, in its shape.
    """

    analysis: Analysis
    axes: Sequence[Axis]
    consumers: Sequence[Consumer]
    scores: Mapping[str, Tensor]
    pattern: Pattern

    def moved(self, orders: Orders, consumers: Sequence[Consumer]) -> dict[str, Tensor]:
        """The scores of some weights, with the axes in ``orders``."""
        found = {consumer.name: self.scores[consumer.name] for consumer in consumers}
        for move in Plan.from_orders(self.analysis, orders).moves:
            for name in found.keys() & set(move.names):
                found[name] = move(found[name])
        return found

    def retained(self, orders: Orders, consumers: Sequence[Consumer] | None = None) -> float:
        """What the masks of ``consumers`` (``None``: all) retain with the axes in ``orders``."""
        consumers = self.consumers if consumers is None else consumers
        scores = self.moved(orders, consumers)
        return sum(self._retained(to_matrix(scores[c.name], c.layer.channel_dim)) for c in consumers)

    def worth(self, axis: Axis, orders: Orders) -> tuple[float, float]:
        """What the groups that ``axis`` enters as input channels retain, and their ideal."""
        readers = [consumer for consumer in self.consumers if consumer.reads(axis)]
        scores = self.moved(orders, readers)
        retained = ideal = 0.0
        for reader in readers:
            columns = touched_columns(axis, reader, self._m)
            if len(columns):
                matrix = to_matrix(scores[reader.name], reader.layer.channel_dim)[:, columns]
                retained += self._retained(matrix)
                ideal += SearchProblem.from_matrix(matrix).ideal(self.pattern)
        return retained, ideal

    def alternate(self, starts: Sequence[Mapping[Axis, Indices]], search: Search) -> InTurn:
        """The orders of every axis, from the best of ``starts``.

        Axes with several contexts stay as the start has them: rows of different heads share blocks.
        """
        best = max(starts, key=lambda start: self.retained(start))
        found = InTurn(dict(best))
        total = self.retained(found.orders)
        for round_ in range(MAX_ROUNDS):
            for number, axis in enumerate(self.axes):
                started = time.perf_counter()
                order = self._searched(axis, found.orders, search, MAX_ROUNDS * number + round_)
                found.seconds[axis] = found.seconds.get(axis, 0.0) + time.perf_counter() - started
                if order is not None:
                    found.orders[axis] = order
            before, total = total, self.retained(found.orders)
            if total <= before * (1 + _LEAST_GAIN):
                break
        return found

    def _searched(self, axis: Axis, orders: Orders, search: Search, number: int) -> Indices | None:
        """A better order of one axis, or ``None``."""
        touched = [consumer for consumer in self.consumers if touches(axis, consumer)]
        if axis.contexts > 1 or not touched:
            return None
        scores = self.moved(orders, touched)
        sides = [side for consumer in touched for side in (consumer, turned(consumer))]

        def matrix(layer: LayerWeight) -> Scored:
            return Scored(to_matrix(scores[layer.name], layer.channel_dim).__getitem__)

        # No sample of rows: it would cut the blocks of the masks into pieces.
        for placed in placed_problems(axis, sides, matrix, self._m, max_scores=sys.maxsize):
            if placed.problem is None:
                return None
            found = placed.place.order(search(placed.problem, number))
            better = orders[axis][:, found]
            if (found != np.arange(axis.size)).any():
                before = self.retained(orders, touched)
                if self.retained({**orders, axis: better}, touched) > before * (1 + _ROUNDING):
                    return better
        return None

    def _retained(self, matrix: Tensor) -> float:
        return SearchProblem.from_matrix(matrix).retained(None, self.pattern)

    @property
    def _m(self) -> int:
        return self.pattern.require_nm("permute")[1]
