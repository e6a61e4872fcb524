"""What a figure asks of the frame that it draws.

Its columns, its rows with numbers, and what a sweep says of its quantities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sparselab.metrics.metric import Quantity


def require_columns(frame: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Raise ``ValueError`` naming the columns that ``figure`` needs and ``frame`` lacks, or that there are no rows."""
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{figure} draws a pandas frame, got {type(frame).__name__}")
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"{figure} needs the columns {missing}; the frame has {list(frame.columns)}")
    if frame.empty:
        raise ValueError(f"{figure}: the frame has no rows, so there is nothing to draw")


def finite_rows(frame: pd.DataFrame, columns: Sequence[str], figure: str) -> pd.DataFrame:
    """The rows of ``frame`` that have a finite number in each of ``columns``; ``ValueError`` where there are none."""
    require_columns(frame, columns, figure)
    words = [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if words:
        raise ValueError(f"{figure}: {words} hold no numbers, and only numbers can be drawn")
    drawn: pd.DataFrame = frame.loc[np.isfinite(frame[list(columns)].to_numpy("float64", na_value=np.nan)).all(axis=1)]
    if drawn.empty:
        raise ValueError(
            f"{figure}: no row has a finite number in each of {list(columns)}, so there is nothing to draw"
        )
    return drawn


def quantity(frame: pd.DataFrame, name: str) -> Quantity:
    """What the sweep of ``frame`` says of the column or quantity ``name``.

    If it says nothing of that one, the name in words.

    >>> quantity(pd.DataFrame(), "retained_percent").label
    'retained (%)'
    """
    said = {each.name: each for each in _said(frame)}
    found = said.get(name, Quantity(name))
    return replace(found, label=(found.label or name).replace("_percent", " (%)").replace("_", " "))


def headline(frame: pd.DataFrame, names: Sequence[str], figure: str, option: str) -> str:
    """The quantity among ``names`` that the sweep of ``frame`` is about, where ``figure`` was not told by ``option``.

    The first of those that the sweep speaks of (``attrs["quantities"]``), or the only one that there is. Raises
    ``ValueError`` listing ``names`` otherwise.
    """
    chosen = [each.name for each in _said(frame) if each.name in names] or list(dict.fromkeys(names))
    if chosen and (_said(frame) or len(chosen) == 1):
        return chosen[0]
    raise ValueError(
        f"{figure} needs the columns that say what to draw, and the frame does not say which is its headline: give {option}= "
        + (f"one of {chosen}" if chosen else "a column of numbers")
    )


def _said(frame: pd.DataFrame) -> list[Quantity]:
    return [Quantity(**each) for each in frame.attrs.get("quantities", ())]
