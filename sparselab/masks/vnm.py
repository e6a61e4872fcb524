"""V:N:M: sparser than 2:4, and 2:4 hardware can still run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparselab.core.patterns import require_n_of_m
from sparselab.masks.calculator import NOfM, Violations, groups
from sparselab.ops.vnm import KEPT_COLUMNS, best_columns

LARGEST_GROUP = 32


@dataclass(frozen=True)
class VNM(NOfM):
    """``v`` outputs share four of every ``m`` input channels; each keeps its ``n`` largest.

    The pattern of VENOM (Castro et al. 2023, "VENOM: A Vectorized N:M Format for Unleashing the
    Power of Sparse Tensor Cores", section 4). With its four columns gathered a block is ``n``:4, so
    2:4 hardware can run any density. Rows are ``n``:``m`` too. The four columns are the best ones:
    all choices are tried. Raises ``ValueError`` for ``n`` other than 1 and 2, and for ``m`` below 4
    or above 32, where there are too many choices.
    """

    v: int
    n: int
    m: int

    called: ClassVar[str] = "V:N:M"

    def __post_init__(self) -> None:
        require_n_of_m(self.n, self.m)
        if self.n not in (1, 2):
            raise ValueError(f"'{self.v}:{self.n}:{self.m}': N must be 1 or 2, what 2:4 hardware takes of four columns")
        if not KEPT_COLUMNS <= self.m <= LARGEST_GROUP:
            raise ValueError(
                f"'{self.v}:{self.n}:{self.m}': M must lie between {KEPT_COLUMNS} and {LARGEST_GROUP}: of {self.m} columns "
                "there are too few, or too many choices of four"
            )

    @property
    def multiples(self) -> tuple[int, int]:
        """Blocks of ``v`` outputs and ``m`` channels."""
        return self.v, self.m

    def violations(self, slices: Tensor) -> Violations:
        """Groups with more than ``n``, and blocks that use more than four columns."""
        rows = super().violations(slices)
        used = groups((slices != 0).transpose(1, 2), self.v).any(-1).transpose(1, 2)
        columns = groups(used, self.m).sum(-1)
        over = rows.count + int((columns > KEPT_COLUMNS).sum())
        return Violations(over, rows.groups + columns.numel(), rows.rule)

    def __str__(self) -> str:
        return f"{self.v}:{self.n}:{self.m}"

    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``(positions, outputs, channels)`` scores."""
        return best_columns(scores.flatten(0, 1), self.v, self.n, self.m).view(scores.shape)
