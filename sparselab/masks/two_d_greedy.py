"""N:M along rows and columns at once, by falling magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparselab.masks.two_d import TwoD
from sparselab.ops import masks


@dataclass(frozen=True)
class TwoDGreedy(TwoD):
    """In every ``m`` x ``m`` block entries by falling score, at most ``n`` in each row and column.

    ASP's ``m4n2_2d_greedy``, for any ``m``, and the 2-approximation of Hubara et al. 2021,
    "Accelerated Sparse Neural Training" (``2d_2approx`` is another name for it): in every block it
    keeps at least half of what the best choice keeps. A row may end with fewer than
    ``n``, when the only columns with room are those in which it has an entry; ``2d_fast`` fills
    such rows up. Ties go to the lower row, then to the lower column.
    """

    name: ClassVar[str] = "2d_greedy"

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return masks.greedy_blocks(scores.flatten(0, 1), self.n, self.m).view(scores.shape)
