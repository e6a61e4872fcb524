"""The largest scores of every row: the ideal that efficacy is measured against."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sparselab.core.measures import keep_count
from sparselab.core.patterns import require_density
from sparselab.masks.calculator import MaskCalculator
from sparselab.ops.masks import largest_of_rows


@dataclass(frozen=True)
class Row(MaskCalculator):
    """Keep the largest scores of every row: the share ``density``, rounded down to whole weights.

    No order of the channels can retain more at the same density, so this is where efficacy is 100
    (Pool and Yu 2021). Ties go to the lower index.
    """

    density: float = field()

    def __post_init__(self) -> None:
        require_density(self.density)

    @property
    def multiples(self) -> tuple[int, int]:
        """Any shape will do."""
        return 1, 1

    def __str__(self) -> str:
        return f"row,{self.density}"

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return largest_of_rows(scores, keep_count(scores.shape[-1], self.density))
