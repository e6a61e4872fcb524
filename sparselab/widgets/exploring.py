"""What the explorer does with a sweep's frame: which columns can go where, filters, one trial in words. No widget."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pandas as pd

from sparselab.plots.trials import MOST_NAMES, NONE, View, has_places, is_named, text_of, texts

_HIDDEN = ("traceback", "versions", "key")


def height_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of numbers that differ: the headline of the sweep, what else it measured, what it was given."""
    numbers = [str(name) for name in frame if has_places(frame[name])]
    inputs, said = frame.attrs.get("inputs", []), [each["name"] for each in frame.attrs.get("quantities", [])]
    differ = [name for name in numbers if frame[name].nunique() > 1] or numbers
    return sorted(differ, key=lambda name: (name in inputs, name not in said[:1]))


def name_columns(frame: pd.DataFrame) -> list[str]:
    """Columns with values few enough to be told apart one by one, in panels for each; those with one value say nothing."""
    inputs = frame.attrs.get("inputs", [])
    hidden = (*_HIDDEN, "state", "error")  # what failed has no place, whatever it is told apart by
    few = [str(name) for name in frame if name not in hidden and 1 < frame[name].nunique(dropna=False) <= MOST_NAMES]
    few = [name for name in few if is_named(frame, name)]
    return [name for name in few if name in inputs] + [name for name in few if name not in inputs]


def colour_columns(frame: pd.DataFrame) -> list[str]:
    """Columns that colour points: those with few values, and numbers, by a scale."""
    named = name_columns(frame)
    return named + [name for name in height_columns(frame) if name not in named and frame[name].nunique() > 1]


def across_columns(frame: pd.DataFrame) -> list[str]:
    """Columns for the horizontal axis: numbers, and names that are few."""
    return list(dict.fromkeys([*name_columns(frame), *height_columns(frame)]))


def first_view(frame: pd.DataFrame) -> View:
    """A view to start from, nothing before the first trial is done: the headline against the first input that varies, coloured by the next.

    The seed is neither, where there are others: means and intervals are over it.
    """
    heights, names = height_columns(frame), name_columns(frame)
    if not len(frame):
        return View("", "")
    if not heights:
        raise ValueError("the frame has no column of numbers, so there is nothing to draw")
    given = frame.attrs.get("inputs", names)
    inputs = [name for name in across_columns(frame) if name in given]
    inputs = [name for name in inputs if name != "seed"] or inputs
    across = [name for name in inputs or heights if name != heights[0]] or heights
    shown = (across[0], heights[0], "state", "error", "seed")
    colours = [name for name in names if name in given and name not in shown]
    return View(across[0], heights[0], colours[0] if colours else None)


def filtered(frame: pd.DataFrame, query: str) -> pd.DataFrame:
    """The rows for which ``query`` (pandas: ``pattern == "2:4" and seed < 3``) is true; all for an empty one.

    Where a query has ``"none"``, or ``None``, it finds what was ``None``, which pictures and tables call ``none``.
    """
    if not query.strip():
        return frame
    expression = re.sub(r"([=!]=\s*)@?None\b", r"\1'none'", query)
    asked = _with_none(frame) if re.search(r"""(['"])none\1""", expression) else frame
    try:
        wanted = asked.eval(expression, engine="python")
    except Exception as error:
        raise ValueError(f"cannot filter by {query!r}: {_why_not(error)}; write e.g. {example(frame)}") from error
    if isinstance(wanted, pd.DataFrame):
        raise ValueError(f"cannot filter by {query!r}: = assigns, == compares; write e.g. {example(frame)}")
    # Not DataFrame.query: by a column of numbers it would look rows up.
    if not (isinstance(wanted, pd.Series) and pd.api.types.is_bool_dtype(wanted)):
        raise ValueError(
            f"cannot filter by {query!r}: it does not say yes or no to every row; write e.g. {example(frame)}"
        )
    kept = frame[wanted]
    kept.attrs = frame.attrs
    return kept


def example(frame: pd.DataFrame) -> str:
    """A query about columns of ``frame`` that differ: names are compared, numbers limited.

    >>> example(pd.DataFrame({"pattern": ["2:4", "1:4"], "seed": [0, 1], "top1": [90.0, 91.0]}))
    "pattern == '2:4' and seed < 1"
    """
    parts: dict[bool, str] = {}
    are_numbers = {name: has_places(frame[name]) for name in across_columns(frame)}
    # That none can be asked for is worth saying.
    for name in sorted(are_numbers, key=lambda name: are_numbers[name] or not frame[name].isna().any()):
        values, numbers = frame[name], are_numbers[name]
        if name.isidentifier() and not name.startswith(("state", "error")) and values.notna().any():
            first = f"{name} == {NONE!r}" if values.isna().any() else f"{name} == {values.iloc[0]!r}"
            parts.setdefault(numbers, f"{name} < {values.max():.4g}" if numbers else first)
    return " and ".join(parts.values()) or "state == 'done'"


def _with_none(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with the word that pictures have for what is missing in columns of names."""
    names = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    return frame.assign(**{str(name): frame[name].astype(object).where(frame[name].notna(), NONE) for name in names})


def _why_not(error: Exception) -> str:
    """What is wrong with a query, without the parts of pandas that it went through."""
    if isinstance(error, SyntaxError):
        return "it is no expression, in which == compares, and words have quotes"
    return str(error) or type(error).__name__


def trial_labels(frame: pd.DataFrame, every: pd.DataFrame) -> list[tuple[str, int]]:
    """What a list says of each trial of ``frame``, and its number: the inputs that differ in ``every`` trial, and whether it failed."""
    inputs = [name for name in every.attrs.get("inputs", ()) if name in every and every[name].nunique(dropna=False) > 1]
    parts = [[f"{name} {text}" for text in texts(frame[name])] for name in inputs]
    states = frame["state"] if "state" in frame else pd.Series("", frame.index)
    failed = ["failed" if state == "failed" else "" for state in states]
    rows = zip(frame.index, zip(failed, *parts))
    return [(f"{number}: {', '.join(filter(None, said))}".removesuffix(": "), int(number)) for number, said in rows]


def trial_table(frame: pd.DataFrame, row: Any) -> str:
    """One trial as an HTML table of its columns; empty when it is not there."""
    if row not in frame.index:
        return ""
    inputs = frame.attrs.get("inputs", [])
    shown = frame.loc[row].drop(labels=list(_HIDDEN), errors="ignore")
    values = {name: value for name, value in shown.items() if name in inputs or (pd.notna(value) and value != "")}
    cells = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(_text(v))}</td></tr>" for k, v in values.items()
    )
    trace = frame.loc[row].get("traceback")
    more = f"<details><summary>traceback</summary><pre>{html.escape(str(trace))}</pre></details>"
    return f"<table>{cells}</table>{more if pd.notna(trace) and trace else ''}"


def planned(frame: pd.DataFrame) -> int:
    """How many trials the sweep of ``frame`` has when it is done, the last one of a store; 0 where nothing says so."""
    sweeps = frame.attrs.get("sweeps", [])
    return int(sweeps[0].get("trials", 0)) if len(sweeps) == 1 else 0


def changed(store: Path) -> float:
    """When a store was last written, its journal included; 0 when it is not there."""
    files = [store, store.with_name(store.name + "-wal")]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def _text(value: Any) -> str:
    if pd.isna(value):
        return "none"
    return text_of(value)
