"""ADMM: rows that reconstruct, and rows that have a mask, drawn to each other until they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparselab.masks import MaskCalculator
from sparselab.pruners.pruner import Pruned
from sparselab.pruners.reconstruction import Correlations, Reconstruction, require_damping
from sparselab.statistics import SecondMoments


@dataclass(frozen=True)
class ADMM:
    """The alternating direction method of multipliers with a fixed penalty (Boža 2024, arXiv 2401.02938).

    "Fast and Optimal Weight Update for Pruned Large Language Models", algorithms 1 and 2. Inputs are
    scaled to norm 1, weights by those norms, and ``damping`` is added to the diagonal, which is 1.
    In each of ``rounds`` masks are chosen from ``|W + U|``, for the first ``mask_rounds`` of them, and
    the dense rows are drawn to the masked ones with the penalty ``rho``. Costs one inverse, and one
    product of the weight with it in each round. Float32.
    """

    damping: float = 0.01
    rho: float = 1.0
    rounds: int = 20
    mask_rounds: int = 12

    needs = SecondMoments

    def __post_init__(self) -> None:
        require_damping(self.damping)
        if self.rho <= 0:
            raise ValueError(f"rho={self.rho:g} must be positive: it draws the rows to their mask")
        if not 1 <= self.mask_rounds <= self.rounds:
            raise ValueError(f"mask_rounds={self.mask_rounds} must lie between 1 and rounds={self.rounds}")

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """Prune ``weight``; as ``Pruner`` says."""
        problem = Reconstruction.of(self, weight, calculator, statistic, channel_dim)
        scaled = Correlations.of(problem, self.damping)
        drawn_together = scaled.drawn_together(self.rho)
        sought, mask = scaled.rows, problem.mask(scaled.rows)
        for number in range(self.rounds):
            if 0 < number < self.mask_rounds:
                mask = problem.mask(sought)
            dense, dual = drawn_together(sought, mask)
            sought = dense + dual
        return problem.finished(scaled.weights(torch.where(mask, sought, 0)), mask)
