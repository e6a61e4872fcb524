"""What a schedule is: three moments at which it may act on the masked weights."""

from __future__ import annotations

from sparselab.masks import MaskCalculator
from sparselab.training.masked import MaskedWeights


class Schedule:
    """When masks are computed, recomputed and relaxed; a schedule is a frozen dataclass that extends this class.

    A schedule has no state of its own: what it does follows from the step, which counts the
    optimizer steps since the start, so that a run resumed from a checkpoint goes on as if it had
    not stopped. As it stands this class prunes at the start and keeps the masks.
    """

    @property
    def keep_pruned(self) -> bool:
        """Whether the schedule needs the values that masks take."""
        return False

    @property
    def straight_through(self) -> bool:
        """Whether the optimizer moves the dense weights, by gradients that are taken at the pruned ones."""
        return False

    def check(self, calculator: MaskCalculator | None) -> None:
        """Raise ``ValueError`` for masks that the schedule cannot follow (``None``: a function of the user's own)."""

    def begin(self, weights: MaskedWeights) -> None:
        """Step 0, before any training: compute masks, or leave that for later."""
        weights.compute()

    def before_step(self, weights: MaskedWeights, step: int) -> None:
        """``step`` steps are done, and gradients are ready for the next one."""
        weights.apply_to_gradients()

    def after_step(self, weights: MaskedWeights, step: int) -> None:
        """Step ``step`` (the first is 1) has just moved the weights."""
        weights.apply()


def require_steps(schedule: Schedule, **limits: tuple[int, int]) -> None:
    """Raise ``ValueError`` for a number of steps below what it may be; ``limits`` holds ``name=(value, least)``."""
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"{type(schedule).__name__}({name}={value}): {name} must be at least {least} steps")
