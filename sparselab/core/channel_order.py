"""An order of one weight's own input channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparselab.core.moves import Indices, Move


@dataclass(frozen=True, eq=False)
class ChannelOrder:
    """The input channels of a weight in an ``order`` that masks are chosen in; the weight stays as it is.

    Channel ``order[p]``, counted in dimension ``dim`` (from the front), comes at position ``p``, and
    groups of M run along the positions.

    >>> order = ChannelOrder(np.array([2, 0, 1]), 1)
    >>> order.moved(Move(("weight",), (1, 3), 1, 1, np.array([1, 2, 0]))).order  # channel 2 is at 1 now
    array([1, 2, 0])
    """

    order: Indices
    dim: int

    def move(self, shape: tuple[int, ...]) -> Move:
        """What puts a weight of ``shape``, and all that belongs to it, in this order."""
        return Move(("weight",), shape, self.dim, self.dim, self.order)

    def moved(self, move: Move) -> ChannelOrder:
        """The same channels in the same order once ``move`` has moved the weight.

        Raises ``ValueError`` for a move that has another order of channels in every row: no one
        order of theirs stands for this one then.
        """
        if not move.first <= self.dim <= move.last:
            return self
        span = move.shape[move.first : move.last + 1]
        came_from = np.unravel_index(move.order, span)[self.dim - move.first].reshape(span)
        by_channel = np.moveaxis(came_from, self.dim - move.first, 0).reshape(move.shape[self.dim], -1)
        if (by_channel != by_channel[:, :1]).any():
            raise ValueError(
                f"{move.names[0]!r} has an order of its own, which cannot follow a move that has another order of "
                "channels in every row: move the weights before own orders are searched"
            )
        return ChannelOrder(np.argsort(by_channel[:, 0])[self.order], self.dim)


def to_json(orders: Mapping[str, ChannelOrder]) -> dict[str, Any]:
    """Orders by weight name as plain lists and numbers."""
    return {name: {"dim": each.dim, "order": each.order.tolist()} for name, each in orders.items()}


def from_json(data: Mapping[str, Any]) -> dict[str, ChannelOrder]:
    """The orders that ``to_json`` wrote."""
    return {name: ChannelOrder(np.asarray(each["order"], np.int64), int(each["dim"])) for name, each in data.items()}
