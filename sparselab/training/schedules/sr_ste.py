"""Train the dense weights by the gradients of the pruned ones."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.training.masked import MaskedWeights
from sparselab.training.schedules.schedule import Schedule, require_steps


@dataclass(frozen=True)
class SrSte(Schedule):
    """Forward and backward with pruned weights, step with dense ones: new masks every ``every`` steps.

    The gradient, taken at the pruned weights, goes straight through to all of them, and ``decay``
    times each pruned weight is added to it, so that pruned weights fade unless their gradients hold
    them up and masks settle down: SR-STE of Zhou et al. 2021, "Learning N:M Fine-grained Structured
    Sparse Neural Networks From Scratch", section 4, whose decay is 0.0002. With ``decay=0`` it is
    the plain straight-through estimator. Between steps the weights are pruned like those of any
    other schedule, and the values that masks took are kept.
    """

    decay: float = 2e-4
    every: int = 1

    def __post_init__(self) -> None:
        require_steps(self, every=(self.every, 1))
        if not 0 <= self.decay < float("inf"):
            raise ValueError(f"{type(self).__name__}(decay={self.decay}): decay must be at least 0, and finite")

    @property
    def keep_pruned(self) -> bool:
        """What is pruned lives on."""
        return True

    @property
    def straight_through(self) -> bool:
        """The optimizer moves the dense weights."""
        return True

    def before_step(self, weights: MaskedWeights, step: int) -> None:
        """The dense weights for the optimizer to move, their gradients with the decay."""
        weights.restore_dense()
        weights.decay_pruned(self.decay)

    def after_step(self, weights: MaskedWeights, step: int) -> None:
        """Prune again, by new masks when it is time."""
        if step % self.every == 0:
            weights.compute()
        else:
            weights.apply()
