"""The largest scores of a whole weight, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sparselab.core.measures import keep_count
from sparselab.core.patterns import require_density
from sparselab.masks.calculator import MaskCalculator
from sparselab.ops.masks import largest


@dataclass(frozen=True)
class Unstructured(MaskCalculator):
    """Keep the largest scores of a weight: the share ``density``, rounded down to whole entries.

    The upper limit of what any structured mask of that density can retain. Ties go to the lower
    index.
    """

    density: float = field()

    def __post_init__(self) -> None:
        require_density(self.density)

    @property
    def multiples(self) -> tuple[int, int]:
        """Any shape will do."""
        return 1, 1

    def __str__(self) -> str:
        return f"unstructured,{self.density}"

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return largest(scores, keep_count(scores.numel(), self.density))
