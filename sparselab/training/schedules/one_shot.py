"""Prune once."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.training.masked import MaskedWeights
from sparselab.training.schedules.schedule import Schedule, require_steps


@dataclass(frozen=True)
class OneShot(Schedule):
    """Compute masks once, after ``at`` dense steps (0: at the start), and keep them.

    ASP's recipe: prune a trained network, then repeat its training (Mishra et al. 2021,
    "Accelerating Sparse Deep Neural Networks", section 5).
    """

    at: int = 0

    def __post_init__(self) -> None:
        require_steps(self, at=(self.at, 0))

    def begin(self, weights: MaskedWeights) -> None:
        """Prune now, unless dense steps come first."""
        if self.at == 0:
            weights.compute()

    def after_step(self, weights: MaskedWeights, step: int) -> None:
        """Prune when the dense steps are done; otherwise keep the masks."""
        if step == self.at:
            weights.compute()
        else:
            weights.apply()
