"""N:M along rows and columns at once, by falling magnitude."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparselab.core.patterns import require_n_of_m
from sparselab.ops import masks


@dataclass(frozen=True)
class TwoDGreedy:
    """In every ``m`` x ``m`` block entries by falling score, at most ``n`` in each row and column.

    ASP's ``m4n2_2d_greedy``, for any ``m``, and the 2-approximation of Hubara et al. 2021,
    "Accelerated Sparse Neural Training" (``2d_2approx`` is another name for it): in every block it
    keeps at least half of what the best choice keeps. A row may end with fewer than
    ``n``, when the only columns with room are those in which it has an entry; ``2d_fast`` fills
    such rows up. Ties go to the lower row, then to the lower column.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        require_n_of_m(self.n, self.m)

    @property
    def multiples(self) -> tuple[int, int]:
        """Outputs and channels come in blocks of ``m``."""
        return self.m, self.m

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return masks.greedy_blocks(scores.flatten(0, 1), self.n, self.m).view(scores.shape)
