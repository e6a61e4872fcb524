"""The frame of a ``Sparsifier``: what is sparse, and why the rest is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import pandas as pd

from sparselab.core.layers import LayerWeight, ModelWeight
from sparselab.core.measures import density
from sparselab.core.readable import shape_of, why_no_arithmetic, why_unreadable
from sparselab.core.sharding import whole

COLUMNS = ["layer", "shape", "eligible", "reason", "density", "retained_percent", "permutation", "note"]


class SparsifierFrame(pd.DataFrame):
    """A plain frame that can be called as well: ``sparsifier.frame()`` was a method once."""

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    @classmethod
    def of(cls, rows: Iterable[tuple[Any, ...]], pattern: str) -> Self:
        """The frame of ``rows`` of weights that are pruned to ``pattern``."""
        frame = cls(list(rows), columns=COLUMNS)
        frame.attrs["pattern"] = pattern
        return frame

    def __call__(self) -> Self:
        """The frame itself."""
        return self


def row_of(weight: ModelWeight, reason: str | None, retained: float, order: str) -> tuple[Any, ...]:
    """What ``COLUMNS`` say of one weight; ``retained`` is a share."""
    shape = shape_of(weight.weight)
    found = reason or why_unreadable(weight.weight, weight.module)  # wrapped since it was chosen
    return (weight.name, shape, found is None, found or "", density_of(weight), 100 * retained, order, note_of(weight))


def density_of(weight: ModelWeight) -> float:
    """The share of non-zeros; NaN for weights without plain values: not initialised yet, quantised, meta, float8."""
    tensor = weight.weight
    if why_unreadable(tensor, weight.module) or why_no_arithmetic(tensor):
        return float("nan")
    return density(whole(tensor.detach()))


def note_of(weight: ModelWeight) -> str:
    """What was decided for the weight and may surprise."""
    return weight.note if isinstance(weight, LayerWeight) else ""
