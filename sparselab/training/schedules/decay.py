"""Let pruned weights fade."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.core.registry import unknown_name
from sparselab.training.masked import MaskedWeights
from sparselab.training.schedules.schedule import Schedule, require_steps

SHAPES = ("linear", "exponential")


@dataclass(frozen=True)
class Decay(Schedule):
    """Compute masks at ``start``; from there the weights that they take fade, and are gone at ``end``.

    Until then they still train. ``shape="linear"``: the factor falls evenly from 1 to 0;
    ``"exponential"``: it falls by the same ratio at every step, a thousandfold in all, and the rest
    goes at the end. Follows Kao et al. 2022, "Training Recipe for N:M Structured Sparsity with
    Decaying Pruning Mask"; there the mask fades in the forward pass, here the weight itself does,
    so that any model and kernel will do.
    """

    start: int = 0
    end: int = 1000
    shape: str = "linear"

    def __post_init__(self) -> None:
        require_steps(self, start=(self.start, 0), end=(self.end, self.start + 1))
        if self.shape not in SHAPES:
            raise unknown_name("shape of schedule 'decay'", self.shape, SHAPES)

    def factor(self, step: int) -> float:
        """What is left of a weight that a mask takes, after ``step`` steps, if it does not train.

        >>> [Decay(10, 20).factor(step) for step in (0, 10, 15, 20)]
        [1.0, 1.0, 0.5, 0.0]
        """
        way = (step - self.start) / (self.end - self.start)
        if way <= 0 or way >= 1:
            return 1.0 if way <= 0 else 0.0
        return 1.0 - way if self.shape == "linear" else 1e-3**way

    def begin(self, weights: MaskedWeights) -> None:
        """Choose the weights that will go, unless dense steps come first."""
        if self.start == 0:
            weights.compute(vanish=False)

    def before_step(self, weights: MaskedWeights, step: int) -> None:
        """What fades still trains."""
        if self.factor(step) == 0:
            weights.apply_to_gradients()

    def after_step(self, weights: MaskedWeights, step: int) -> None:
        """Choose when it is time; after that, fade by as much as this step is worth."""
        if step == self.start:
            weights.compute(vanish=False)
        elif step > self.start:
            before, now = self.factor(step - 1), self.factor(step)
            weights.apply(now / before if now else 0.0)
