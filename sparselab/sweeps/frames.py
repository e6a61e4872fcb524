"""The frame of a sweep, one row per trial, and the time series behind it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from sparselab.core.fingerprint import Cell
from sparselab.metrics.metric import Quantity
from sparselab.sweeps.store import Record, Series, Store

_TEXTS = ("error", "traceback", "key")
_LAST = ("state", *_TEXTS)
_STEPS = ("step", "epoch", "seconds")


def load(store: str | Path) -> pd.DataFrame:
    """The frame of every trial in a store, in the order of its sweeps and of the grid of each.

    Columns and types as ``experiment`` hands them back; ``attrs["sweeps"]`` says how each sweep was made. Safe while a
    sweep is running. Reads JSON from SQLite: nothing is unpickled. Raises ``FileNotFoundError`` where there is no file
    and ``ValueError`` for one that is not a store.
    """
    with Store(store, create=False) as opened:
        attrs = {"store": str(opened.path.resolve()), "sweeps": opened.sweeps()}
        return frame_of(opened.records(), attrs, opened.quantities())


def frame_of(
    records: Iterable[Record], attrs: dict[str, Any], quantities: Mapping[str, Sequence[Quantity]]
) -> pd.DataFrame:
    """The frame of ``records``; ``attrs`` says how it was made, and gets the columns by what they are.

    ``quantities`` are what each task says of what it measures: see ``shared``.

    Integers, floats and truth values have their own types (the nullable ones where a trial lacks the value), names are
    categoricals in the order in which they come, and an input that was ``None`` is a missing value.
    """
    rows = list(records)
    inputs = _names(row.inputs for row in rows)
    metrics = _names(row.outcome.metrics for row in rows)
    measured = [name for name in _names(row.outcome.measured for row in rows) if name not in {*inputs, *metrics}]
    columns: dict[str, Any] = {"task": _column([row.task for row in rows])}
    columns |= {name: _column([row.inputs.get(name) for row in rows]) for name in inputs}
    columns |= {name: _column([row.outcome.metrics.get(name) for row in rows]) for name in metrics}
    columns |= {name: _column([row.outcome.measured.get(name) for row in rows]) for name in measured}
    columns["state"] = pd.Categorical([row.outcome.state for row in rows], categories=["done", "failed"])
    columns["error"] = pd.Series([row.outcome.error for row in rows], dtype="str")
    columns["traceback"] = pd.Series([row.outcome.traceback for row in rows], dtype="str")
    columns["key"] = pd.Series([row.key for row in rows], dtype="str")
    frame = pd.DataFrame(columns)
    said = shared([quantities.get(task, ()) for task in _names([row.task] for row in rows)])
    frame.attrs |= {**attrs, "inputs": inputs, "metrics": metrics, "measured": measured, "quantities": said}
    return frame


def shared(tasks: Sequence[Sequence[Quantity]]) -> list[dict[str, Any]]:
    """What several tasks say of what they measure, as a frame's ``attrs`` keep it: ``name, label, higher_is_better``.

    The headline comes first; nothing, where they have different ones, or none: no column is then what all are about.
    """
    if len({quantities[0] if quantities else None for quantities in tasks}) != 1:
        return []
    return [asdict(quantity) for quantity in {each.name: each for one in tasks for each in one}.values()]


def _names(parts: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(parts)))


def _column(values: Sequence[Cell]) -> pd.Series[Any]:
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    lacking = len(present) < len(values)
    if kinds == {str}:
        return pd.Series(pd.Categorical(list(values), categories=pd.Index(list(dict.fromkeys(map(str, present))))))
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if lacking else "bool")
    if kinds == {int} and all(-(2**63) <= int(value) < 2**63 for value in present):  # type: ignore[arg-type]
        return pd.Series(values, dtype="Int64" if lacking else "int64")
    if kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series(values, dtype="object")


def history(frame: pd.DataFrame, store: str | Path | None = None) -> pd.DataFrame:
    """The time series of the trials in ``frame``, in long format.

    There is one row per trial, tracker, step and quantity. Columns: the inputs of the trial,
    ``key``, ``tracker``, what places a value (``step``, ``epoch``, ``seconds``, and the names that
    the series have, such as ``layer``), ``quantity`` and ``value`` (float). A frame of any rows of
    one that ``experiment`` or ``load`` made will do; ``store`` is where to look if it lost its
    ``attrs``. An empty frame with these columns when no trial kept a series. Raises ``ValueError``
    for another frame and ``FileNotFoundError`` when the store is gone (a temporary one ends with
    its process).
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"history takes the frame of sl.experiment or sl.load, got {reprlib.repr(frame)}")
    where = store if store is not None else frame.attrs.get("store")
    if "key" not in frame or where is None:
        raise ValueError("history needs a frame of sl.experiment or sl.load, with its column 'key'; or say store=")
    inputs = [name for name in frame.attrs.get("inputs", []) if name in frame]
    about = frame[["key", *inputs]].drop_duplicates("key")
    with Store(where, create=False) as opened:
        parts = [_long(key, tracker, series) for key, tracker, series in opened.histories(about["key"])]
    if not parts:
        return pd.DataFrame(columns=[*inputs, "key", "tracker", "step", "quantity", "value"])
    series = pd.concat(parts, ignore_index=True)
    placed = [name for name in series if name not in ("key", "tracker", "quantity", "value")]
    for name in ("tracker", "quantity"):
        series[name] = series[name].astype("category")
    clash = [name for name in inputs if name in placed]
    joined = about.drop(columns=clash).merge(series, on="key", how="right")
    kept = [name for name in inputs if name not in clash]
    ordered = joined[[*kept, "key", "tracker", *placed, "quantity", "value"]]
    ordered.attrs = {"store": str(where), "inputs": kept, "quantities": frame.attrs.get("quantities", [])}
    return ordered


def _long(key: str, tracker: str, series: Series) -> pd.DataFrame:
    wide = pd.DataFrame(series.rows, columns=list(series.columns))
    places = [name for name in wide if name in _STEPS or not pd.api.types.is_numeric_dtype(wide[name])]
    long = wide.melt(id_vars=places, var_name="quantity", value_name="value")
    long["value"] = long["value"].astype("float64")
    return long.assign(key=key, tracker=tracker)
