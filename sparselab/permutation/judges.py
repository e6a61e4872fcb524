"""What orders are judged by: how much saliency masks retain, along the channels or transposable ones.

``judge_of`` reads it from a pattern, once; whatever depends on the kind of mask is a method of what it returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparselab.core.patterns import Pattern
from sparselab.ops import backends
from sparselab.ops.backends import Size
from sparselab.ops.counting import group_sums
from sparselab.ops.masks import best_blocks
from sparselab.ops.matrix import Floats, Ints, LoadedMatrix
from sparselab.ops.threads import map_blocks

LARGEST_BLOCK = 4  # of 2d masks: beyond, there are too many to try
_BLOCK = 2**20  # elements counted at once in float64

Scores = NDArray[Any]


@dataclass(frozen=True)
class Judge(ABC):
    """Masks with ``n`` of every ``m`` entries. Scores are ``(rows, channels)``, counts are exact to float64."""

    n: int
    m: int

    @property
    @abstractmethod
    def row_multiple(self) -> int:
        """What the number of rows must be a multiple of."""

    @abstractmethod
    def retained(self, scores: Scores, columns: Ints) -> float:
        """What the best masks of ``scores[:, columns]`` retain, counted in float64."""

    @abstractmethod
    def check_backend(self, backend: str) -> None:
        """Raise ``ValueError`` for a backend that cannot search for these masks, or not here."""

    @abstractmethod
    def resolve(self, backend: str, rows: int, channels: int) -> str:
        """The backend that ``backend`` stands for, for a problem of that size."""

    @abstractmethod
    def load(self, values: Scores, backend: str) -> LoadedMatrix:
        """``values``, ``(channels, rows)``, for searching on a resolved backend."""

    def ideal(self, scores: Scores) -> float:
        """What keeping the best N/M of every row retains, with no structure, counted in float64."""
        pruned = scores.shape[1] // self.m * (self.m - self.n)

        def count(block: Scores) -> float:
            kept = np.partition(block, pruned, axis=1)[:, pruned:] if pruned else block
            return float(kept.sum(dtype=np.float64))

        return sum(map_blocks(count, _row_blocks(scores)))


@dataclass(frozen=True)
class AlongChannels(Judge):
    """Masks along the input channels, each row by itself."""

    @property
    def row_multiple(self) -> int:
        """See ``Judge``."""
        return 1

    def retained(self, scores: Scores, columns: Ints) -> float:
        """See ``Judge``."""

        def count(block: Scores) -> float:
            return float(group_sums(block, columns, self.n, self.m).sum())

        return sum(map_blocks(count, _row_blocks(scores)))

    def check_backend(self, backend: str) -> None:
        """See ``Judge``."""
        backends.check_backend(backend)

    def resolve(self, backend: str, rows: int, channels: int) -> str:
        """See ``Judge``."""
        return backends.resolve(backend, Size(rows, channels, self.m))

    def load(self, values: Floats, backend: str) -> LoadedMatrix:
        """See ``Judge``."""
        return backends.load_on(backend, values, self.n, self.m)


@dataclass(frozen=True)
class Transposable(Judge):
    """2d masks, which keep ``n`` of every ``m`` rows too. Raises ``ValueError`` for blocks larger than 4 x 4."""

    def __post_init__(self) -> None:
        if self.m > LARGEST_BLOCK:
            raise ValueError(
                f"orders are judged by 2d masks up to M = {LARGEST_BLOCK}, got M = {self.m}: search for "
                f"'{self.n}:{self.m}', whose order helps 2d masks too"
            )

    @property
    def row_multiple(self) -> int:
        """See ``Judge``."""
        return self.m

    def retained(self, scores: Scores, columns: Ints) -> float:
        """See ``Judge``."""
        total = 0.0
        for block in _row_blocks(scores, self.m):
            moved = block[:, columns]
            mask = best_blocks(torch.from_numpy(moved), self.n, self.m).numpy()
            total += float(moved[mask].sum(dtype=np.float64))
        return total

    def check_backend(self, backend: str) -> None:
        """See ``Judge``."""
        if backend not in ("auto", "cpu"):
            raise ValueError(f"orders for 2d masks are searched by backend 'cpu' (or 'auto') only, not {backend!r}")

    def resolve(self, backend: str, rows: int, channels: int) -> str:
        """See ``Judge``."""
        self.check_backend(backend)
        return "cpu"

    def load(self, values: Floats, backend: str) -> LoadedMatrix:
        """See ``Judge``."""
        from sparselab.ops import transposable_matrix

        return transposable_matrix.load(values, self.n, self.m)


_JUDGES = {"1d": AlongChannels, "2d_best": Transposable}


def judge_of(pattern: str | Pattern | Judge) -> Judge:
    """What the orders for ``pattern`` are judged by; a judge is returned as it is.

    Raises ``ValueError`` for patterns that no order can be judged by: those without groups, V:N:M, greedy or fast 2d
    masks, and 2d masks with M above 4.

    >>> judge_of("2:4"), judge_of("m4n2_2d_best")
    (AlongChannels(n=2, m=4), Transposable(n=2, m=4))
    """
    if isinstance(pattern, Judge):
        return pattern
    parsed = Pattern.parse(pattern)
    n, m = parsed.require_nm("a permutation search")
    if parsed.calculator not in _JUDGES:
        raise ValueError(
            f"a permutation search scores masks along the input channels ('{n}:{m}') or both ways "
            f"('m{m}n{n}_2d_best'), not '{parsed}'"
        )
    return _JUDGES[parsed.calculator](n, m)


def _row_blocks(scores: Scores, multiple: int = 1) -> Iterator[Scores]:
    step = max(1, _BLOCK // max(1, scores.shape[1] * multiple)) * multiple
    return (scores[start : start + step] for start in range(0, len(scores), step))
