"""N:M along rows and columns at once, near the optimum in a hundredth of the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparselab.masks.two_d import TwoD
from sparselab.ops.transposable import fast_blocks


@dataclass(frozen=True)
class TwoDFast(TwoD):
    """In every ``m`` x ``m`` block a good choice with exactly ``n`` in each row and each column.

    The greedy choice, filled up where it left a row short, then improved by exchanges between any
    two rows and any two columns; for any ``m``. Keeps 0.1 to 0.5 percent less than ``2d_best``
    (random weights).
    """

    name: ClassVar[str] = "2d_fast"

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return fast_blocks(scores.flatten(0, 1), self.n, self.m).view(scores.shape)
