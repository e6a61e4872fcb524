"""The largest scores of every row: the ideal that efficacy is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparselab.ops.masks import keep_count, require_finite
from sparselab.patterns import require_density


@dataclass(frozen=True)
class Row:
    """Keep the share ``density`` of every row with the largest scores (rounded down to whole weights).

    No order of the channels can retain more at the same N:M density, so it is the 100 of efficacy (Pool and Yu 2021).
    Ties go to the lower index.
    """

    density: float

    def __post_init__(self) -> None:
        require_density(self.density)

    @property
    def multiples(self) -> tuple[int, int]:
        """Any shape will do."""
        return 1, 1

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        require_finite(scores)
        rows = scores.abs()
        keep = keep_count(rows.shape[-1], self.density)
        if not keep or not rows.numel():
            return torch.zeros_like(rows, dtype=torch.bool)
        threshold = rows.kthvalue(rows.shape[-1] - keep + 1, dim=-1, keepdim=True).values
        above = rows > threshold
        ties = rows == threshold
        room = keep - above.sum(-1, keepdim=True)
        return above | (ties & (ties.cumsum(-1) <= room))
