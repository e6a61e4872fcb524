"""Swaps: the values stay, and the mask changes as long as that brings the outputs nearer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparselab.masks import MaskCalculator
from sparselab.pruners.pruner import Pruned
from sparselab.pruners.reconstruction import Correlations, Reconstruction
from sparselab.statistics import SecondMoments

_FIRST_MARGIN = 1e-3
_WIDER, _NARROWER = 2.0, 0.7
"""By what a margin grows where too much was swapped at once, and falls where it was not."""


@dataclass(frozen=True)
class Swaps:
    """Wanda's mask, improved by swaps that are judged by the second moments. No weight is updated.

    As in DSnoT (Zhang et al. 2024, "Dynamic Sparse No Training", arXiv 2310.08915) a pruned weight
    comes back for a kept one where that lowers the reconstruction error; here the error is that of
    ``H``, not an expectation of it. In each of ``rounds`` every weight is worth what the error
    would rise without it, all others as they are, and the calculator chooses by that. Kept weights
    have a margin, which grows in rows where the choice made the error larger: their choice is
    dropped. So no row ends with a larger error than it began with. Costs one product of the weight
    for each round. Deterministic, in float32.

    >>> from sparselab.masks import calculator
    >>> matrix = torch.eye(4)
    >>> matrix[2, 3] = matrix[3, 2] = 0.9  # what the last two inputs give adds up
    >>> moments = SecondMoments(matrix[None], (9,), (1, 4))
    >>> Swaps()(torch.tensor([[1.0, 0.9, 0.8, 0.8]]), calculator("2:4"), moments).weight
    tensor([[1.0000, 0.0000, 0.8000, 0.0000]])
    """

    rounds: int = 30

    needs = SecondMoments

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"rounds={self.rounds}: there cannot be fewer than 0")

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """Prune ``weight``; as ``Pruner`` says."""
        problem = Reconstruction.of(self, weight, calculator, statistic, channel_dim)
        scaled = Correlations.of(problem, 0.0)
        mask = problem.mask(scaled.rows)
        slope, error = _slope_and_error(problem, scaled, mask)
        margin = torch.full_like(error, _FIRST_MARGIN)
        for _ in range(self.rounds):
            worth = scaled.rows * (torch.where(mask, scaled.rows, -scaled.rows) - 2 * slope)
            worth -= problem.least(worth)  # calculators rank by size
            proposed = problem.mask(torch.where(mask, worth + margin * error, worth))
            new_slope, new_error = _slope_and_error(problem, scaled, proposed)
            better, same = new_error < error, problem.summed((proposed != mask).to(error)) == 0
            margin = margin * torch.where(better | same, _NARROWER, _WIDER)
            mask = torch.where(better, proposed, mask)
            slope, error = torch.where(better, new_slope, slope), torch.where(better, new_error, error)
        return problem.finished(problem.rows, mask)


def _slope_and_error(problem: Reconstruction, scaled: Correlations, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Half the gradient of the error of what ``mask`` prunes, and the error of what has one mask."""
    away = torch.where(mask, 0, -scaled.rows)
    slope = away @ scaled.matrices
    return slope, problem.summed(slope * away)
