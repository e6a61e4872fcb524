"""N:M along rows and columns at once, the optimum of every block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparselab.ops import masks

LARGEST_BLOCK = 4


@dataclass(frozen=True)
class TwoDBest:
    """In every ``m`` x ``m`` block the best choice with ``n`` in each row and each column, so the transpose is N:M too.

    Exact by trying every valid block (90 at 2 of 4; ASP's ``m4n2_2d_best``). Raises ``ValueError`` for ``m`` above 4,
    where the number of blocks explodes (8 x 8 has 116,963,796,250 at 4 of 8).
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if self.m > LARGEST_BLOCK:
            raise ValueError(
                f"'2d_best' tries every valid block, which ends at M = {LARGEST_BLOCK}; got M = {self.m}. "
                f"'m{self.m}n{self.n}_2d_greedy' does any M"
            )

    @property
    def multiples(self) -> tuple[int, int]:
        """Outputs and channels come in blocks of ``m``."""
        return self.m, self.m

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return masks.best_blocks(scores.flatten(0, 1), self.n, self.m).view(scores.shape)
