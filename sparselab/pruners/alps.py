"""ALPS: ADMM whose penalty grows, so that masks settle late; then least squares on the mask."""

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
class ALPS:
    """ADMM with a growing penalty, then conjugate gradients on its mask (Meng et al. 2024, arXiv 2406.07831).

    "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models",
    sections 3.1 and 3.2. As in ``ADMM`` inputs are scaled to norm 1 and ``damping`` is added to the
    diagonal. Here the penalty grows from ``first`` to ``last`` in ``stages`` of ``rounds`` each, by
    the same factor (there: by how much the mask changed), and masks are chosen anew until the end.
    On the last mask ``steps`` of conjugate gradients, for all rows at once; inputs of norm 1 are what
    preconditioning by the diagonal makes of them. Costs one inverse for each stage and ``stages *
    rounds + steps`` products of the weight. Float32. More stages are slower and better. The default
    damping is for few data: what fits 8,000 tokens best does not fit others best.
    """

    damping: float = 0.1
    stages: int = 6
    rounds: int = 3
    first: float = 0.1
    last: float = 1.0
    steps: int = 4

    needs = SecondMoments

    def __post_init__(self) -> None:
        require_damping(self.damping)
        if self.stages < 1 or self.rounds < 1 or self.steps < 0:
            raise ValueError(
                f"{self}: there must be at least one stage of at least one round, and no fewer than 0 steps"
            )
        if not 0 < self.first <= self.last:
            raise ValueError(
                f"the penalty must be positive and must not fall: first={self.first:g}, last={self.last:g}"
            )

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """Prune ``weight``; as ``Pruner`` says."""
        problem = Reconstruction.of(self, weight, calculator, statistic, channel_dim)
        scaled = Correlations.of(problem, self.damping)
        dense, mask = self._agreed(problem, scaled)
        return problem.finished(scaled.weights(scaled.least_squares(dense, mask, self.steps)), mask)

    def _agreed(self, problem: Reconstruction, scaled: Correlations) -> tuple[Tensor, Tensor]:
        """The dense rows and the mask that they have come to."""
        dense, dual = scaled.rows, torch.zeros_like(scaled.rows)
        growth = (self.last / self.first) ** (1 / max(1, self.stages - 1))
        for stage in range(self.stages):
            rho = self.first * growth**stage
            dual = dual / growth if stage else dual  # the multiplier is rho times it, and stays
            drawn_together = scaled.drawn_together(rho)
            for _ in range(self.rounds):
                sought = dense + dual
                dense, dual = drawn_together(sought, problem.mask(sought))
        return dense, problem.mask(dense + dual)
