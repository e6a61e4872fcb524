"""Frames on standard output."""

from __future__ import annotations

import pandas as pd


def print_frame(frame: pd.DataFrame, as_json: bool) -> None:
    """``frame`` as a table for readers, or as JSON records."""
    if as_json:
        print(frame.to_json(orient="records", double_precision=15))
        return
    shown = frame.drop(columns="order", errors="ignore")
    print(shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.5g}"))
