"""The largest scores of a whole weight, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparselab.ops.masks import keep_count, require_finite


@dataclass(frozen=True)
class Unstructured:
    """Keep the share ``density`` of the weight with the largest scores (rounded down to whole weights).

    The upper limit of what any structured mask of that density can retain. Ties go to the lower index.
    """

    density: float

    @property
    def multiples(self) -> tuple[int, int]:
        """Any shape will do."""
        return 1, 1

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        require_finite(scores)
        flat = scores.abs().reshape(-1)
        keep = keep_count(flat.numel(), self.density)
        mask = torch.zeros_like(flat, dtype=torch.bool)
        if keep:
            threshold = flat.kthvalue(flat.numel() - keep + 1).values
            mask = flat > threshold
            ties = (flat == threshold).nonzero()[: keep - int(mask.sum()), 0]
            mask[ties] = True
        return mask.view(scores.shape)
