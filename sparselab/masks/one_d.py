"""N:M along the input channels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from sparselab.core.patterns import require_n_of_m
from sparselab.masks.calculator import NOfM
from sparselab.ops import masks


@dataclass(frozen=True)
class OneD(NOfM):
    """Keep the ``n`` largest scores of every ``m`` consecutive input channels.

    ASP calls it ``m4n2_1d`` at 2 of 4. Exact for every ``0 < n <= m``; ties go to the lower index.
    One pass over memory on the CPU.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        require_n_of_m(self.n, self.m)

    @property
    def multiples(self) -> tuple[int, int]:
        """Channels come in groups of ``m``."""
        return 1, self.m

    def stages(self) -> tuple[OneD, ...]:
        """M - 1 of M, then one less at a time."""
        return tuple(dataclasses.replace(self, n=n) for n in range(self.m - 1, self.n - 1, -1))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return masks.top_n_of_m(scores.flatten(0, 1), self.n, self.m).view(scores.shape)
