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

    def why_not(self, outputs: int, channels: int) -> str | None:
        """Rows too short to keep one weight, as a depthwise convolution has them, would keep nothing at all."""
        if keep_count(channels, self.density) or not self.density:
            return None
        return f"a row of {channels} at a density of {self.density:g} keeps nothing"

    def __str__(self) -> str:
        return f"row,{self.density}"

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores; ``ValueError`` where rows are too short."""
        if (reason := self.why_not(*scores.shape[1:])) is not None:
            raise ValueError(f"'{self}': {reason}; give wider rows or a higher density")
        return largest_of_rows(scores, keep_count(scores.shape[-1], self.density))
