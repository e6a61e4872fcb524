"""What a figure asks of the frame that it draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


def require_columns(frame: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Raise ``ValueError`` naming the columns that ``figure`` needs and ``frame`` lacks, or that there are no rows."""
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
