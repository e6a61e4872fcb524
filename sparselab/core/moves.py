"""One tensor's dimensions in another order, and what moves along with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices: TypeAlias = NDArray[np.int64]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Move:
    """One tensor's dimensions ``first`` to ``last`` (inclusive), flattened together, in ``order``.

    ``names`` are all the names that the model has for the tensor. ``new.flatten(first, last) ==
    old.flatten(first, last).index_select(first, order)``.

    >>> Move(("weight",), (1, 3), 1, 1, np.array([2, 0, 1]))(torch.tensor([[5, 6, 7]]))
    tensor([[7, 5, 6]])
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    first: int
    last: int
    order: Indices

    def __call__(self, tensor: Tensor) -> Tensor:
        """A moved copy of ``tensor``, which ``fits``."""
        index = torch.from_numpy(self.order).to(tensor.device)
        flat = tensor.flatten(self.first, self.last)
        return flat.index_select(self.first, index).reshape(tensor.shape)

    def fits(self, state: Tensor) -> bool:
        """Whether ``state`` moves along.

        It has the shape, or is one number where the shape has many (Adafactor's sums).
        """
        broadcasts = state.ndim == len(self.shape) and all(
            have in (1, size) for have, size in zip(state.shape, self.shape, strict=True)
        )
        span = slice(self.first, self.last + 1)
        return broadcasts and tuple(state.shape[span]) == self.shape[span]

    def inverse(self) -> Move:
        """The move that undoes this one."""
        return Move(self.names, self.shape, self.first, self.last, np.argsort(self.order))


@runtime_checkable
class Movable(Protocol):
    """What belongs to a weight and can follow it: statistics, and saliencies that hold some."""

    def moved(self, move: Move) -> Self:
        """What belongs to the weight after ``move``. Neither object is changed."""
        ...


def moved(held: T, moves: Iterable[Move]) -> T:
    """What fits a weight after ``moves``, of what was ``held`` for it before.

    A tensor of the weight's shape moves as the weight does, and what is ``Movable`` moves itself.
    All else, a name or a function of the weight, stays as it is. Raises ``ValueError`` when a
    tensor has another shape.
    """
    result: Any = held
    for move in moves:
        if isinstance(result, Tensor):
            if tuple(result.shape) != move.shape:
                raise ValueError(
                    f"scores of {move.names[0]!r} have shape {tuple(result.shape)}, the weight {move.shape}: "
                    "they must agree"
                )
            result = move(result)
        elif isinstance(result, Movable):
            result = result.moved(move)
    return cast("T", result)
