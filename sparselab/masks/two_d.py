"""What all masks that hold N of every M along rows and columns alike have in common."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from sparselab.core.patterns import require_n_of_m
from sparselab.masks.calculator import NOfM


@dataclass(frozen=True)
class TwoD(NOfM):
    """At most ``n`` in every row and every column of each ``m`` x ``m`` block; ``name`` is the calculator's own."""

    n: int
    m: int

    name: ClassVar[str]
    called: ClassVar[str] = "a 2d mask"
    transposable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_n_of_m(self.n, self.m)

    @property
    def multiples(self) -> tuple[int, int]:
        """Outputs and channels come in blocks of ``m``."""
        return self.m, self.m

    def stages(self) -> tuple[TwoD, ...]:
        """M - 1 of M, then one less at a time."""
        return tuple(dataclasses.replace(self, n=n) for n in range(self.m - 1, self.n - 1, -1))

    def __str__(self) -> str:
        return f"m{self.m}n{self.n}_{self.name}"
