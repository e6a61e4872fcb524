"""Prune by one more weight of every group at a time."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.masks import MaskCalculator
from sparselab.training.masked import MaskedWeights
from sparselab.training.schedules.schedule import Schedule, require_steps


@dataclass(frozen=True)
class Gradual(Schedule):
    """Keep M of M, then one less at a time: the first weight of each group goes at ``start``, the last at ``end``.

    For 2:4 that is 3:4 from step ``start`` and 2:4 from step ``end``; in between, the moments are
    evenly spaced (rounded down). A weight that is gone stays gone. Gradual magnitude pruning (Zhu
    and Gupta 2017, "To prune, or not to prune") with N as its sparsity, as in the stages of Zhou et
    al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", appendix.
    """

    start: int = 0
    end: int = 1000

    def __post_init__(self) -> None:
        require_steps(self, start=(self.start, 0), end=(self.end, self.start))

    def check(self, calculator: MaskCalculator | None) -> None:
        """Needs a calculator with a way from dense to itself."""
        if calculator is None or not (calculator.stages() or calculator.density == 1):
            raise ValueError("schedule 'gradual' needs an N:M pattern such as '2:4'")

    def keep(self, step: int, n: int, m: int) -> int:
        """How many of every ``m`` are kept after ``step`` steps.

        >>> [Gradual(10, 30).keep(step, 1, 4) for step in (0, 10, 19, 20, 30)]
        [4, 3, 3, 2, 1]
        """
        return m - self.entered(step, m - n)

    def entered(self, step: int, stages: int) -> int:
        """How many of so many ``stages`` have begun after ``step`` steps."""
        moments = [self.start + (self.end - self.start) * k // max(1, stages - 1) for k in range(stages)]
        if stages == 1:
            moments = [self.end]
        return sum(moment <= step for moment in moments)

    def begin(self, weights: MaskedWeights) -> None:
        """The first stage, if it begins at once."""
        self._enter(weights, 0, None)

    def after_step(self, weights: MaskedWeights, step: int) -> None:
        """Go on to the next stage when it is time, else keep the masks."""
        self._enter(weights, step, step - 1)

    def _enter(self, weights: MaskedWeights, step: int, before: int | None) -> None:
        assert weights.choice.calculator is not None
        stages = weights.choice.calculator.stages()
        entered = self.entered(step, len(stages))
        if entered > (0 if before is None else self.entered(before, len(stages))):
            weights.compute(stages[entered - 1])
        else:
            weights.apply()
