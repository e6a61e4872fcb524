"""Compute masks again and again."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.training.masked import MaskedWeights
from sparselab.training.schedules.schedule import Schedule, require_steps


@dataclass(frozen=True)
class Recompute(Schedule):
    """Compute masks at the start and every ``every`` steps, up to step ``until`` (``None``: to the end).

    As it is, pruned values are kept and come back, as they were when they were taken, before the new masks are computed
    (ASP's ``allow_recompute_mask``). With ``regrow`` they start again from zero: masks are off for the ``grow`` steps
    before each recomputation, in which pruned weights may grow and compete (the prune-and-regrow cycle of Mocanu et al.
    2018, with Han et al. 2017, "DSD: Dense-Sparse-Dense Training", for its dense phase).
    """

    every: int = 100
    until: int | None = None
    regrow: bool = False
    grow: int = 10

    def __post_init__(self) -> None:
        require_steps(self, every=(self.every, 1))
        if self.regrow and not 0 < self.grow < self.every:
            raise ValueError(f"Recompute(grow={self.grow}): grow must lie between 0 and every={self.every} steps")

    @property
    def keep_pruned(self) -> bool:
        """Pruned values are kept unless they start again from zero."""
        return not self.regrow

    def after_step(self, weights: MaskedWeights, step: int) -> None:
        """New masks when it is time, no masks while weights grow, else keep the masks."""
        into = step % self.every
        last = step - into + (self.every if into else 0)
        if self.until is not None and last > self.until:
            weights.apply()
        elif into == 0:
            weights.compute()
        elif self.regrow and into == self.every - self.grow:
            weights.unmask()
        else:
            weights.apply()
