"""``sparselab report``: what a store of trials holds."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from sparselab import plots
from sparselab.command_line.printing import Spread, print_frame, print_table
from sparselab.plots.comparisons import FINETUNED
from sparselab.reproduce.section import Section, markdown_table
from sparselab.sweeps import history, load


def report(options: Namespace) -> int:
    """Say what a store holds: means over seeds, failures, and with ``--out`` a folder with tables and figures."""
    frame = load(options.store)
    table = summary(frame)
    failures = failures_of(frame)
    if options.json:
        print_frame(table, as_json=True)
    else:
        print_summary(frame)
        print(f"{len(frame)} trials, {len(frame) - int((frame['state'] == 'failed').sum())} done", *failures, sep="\n")
    if options.out:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        figures, problems = _figures(frame)
        numbers = dict.fromkeys(table.select_dtypes("float").columns, ".5g")
        text = "\n\n".join(
            [
                f"{len(frame)} trials in `{Path(options.store).name}`.",
                markdown_table(table, numbers),
                *(f"- {problem}" for problem in [*failures, *problems]),
                *(f"![{name}]({name}.png)" for name in figures),
            ]
        )
        Section("Sweep", text, {"trials": frame, "summary": table}, figures).write(folder, "report")
        if not options.json:
            print(f"report: {folder / 'report.md'}")
    return 0


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per combination of inputs, the seed aside: trials, failures, and each metric's mean and deviation."""
    inputs = [name for name in frame.attrs["inputs"] if name != "seed" and frame[name].nunique(dropna=False) > 1]
    by = [name for name in ["task", *inputs] if name == "task" or name in inputs]
    metrics = [name for name in frame.attrs["metrics"] if pd.api.types.is_numeric_dtype(frame[name])]
    groups = frame.groupby(by, dropna=False, observed=True, sort=False)
    table = groups.agg(trials=("state", "size"), failed=("state", lambda states: int((states == "failed").sum())))
    for name in metrics:
        numbers = groups[name]
        table[name], table[f"{name}_std"] = numbers.mean().astype(float), numbers.std().astype(float)
    table = table.reset_index()
    for name in by:
        table[name] = table[name].astype(object).where(table[name].notna(), "none")
    return table.dropna(axis=1, how="all")


def print_summary(frame: pd.DataFrame) -> None:
    """``summary`` for readers: mean and deviation in one cell, what the sweep is about first, as far as it has room."""
    table = summary(frame)
    if table.empty:  # a sweep stopped in its first trial
        return
    said = [quantity["name"] for quantity in frame.attrs["quantities"]]
    metrics = [name for name in dict.fromkeys([*said, *frame.attrs["metrics"]]) if name in table]
    inputs = [str(name) for name in table][: list(table).index("trials")]
    shown = table[[*inputs, "trials", "failed"]].copy()
    for name in metrics:
        deviations = table.get(f"{name}_std", [math.nan] * len(table))
        shown[name] = pd.Series([Spread(*pair) for pair in zip(table[name], deviations, strict=True)], dtype=object)
    varying = [name for name in inputs if table[name].nunique(dropna=False) > 1]
    print_table(shown, always=[*varying, *metrics[:1]])


def failures_of(frame: pd.DataFrame) -> list[str]:
    """What trials failed of and how often, the most frequent first."""
    counts = frame["error"].dropna().value_counts().items()
    return [f"failed {'once' if count == 1 else f'{count} times'}: {error}" for error, count in counts]


def _figures(frame: pd.DataFrame) -> tuple[dict[str, Any], list[str]]:
    """The figures of a sweep that says what it is about, and why any of them cannot be drawn."""
    if not frame.attrs["quantities"] and not any(str(name).startswith(f"{FINETUNED}_") for name in frame):
        return {}, []
    draw: dict[str, Callable[[], Any]] = {
        "accuracy": lambda: plots.accuracy_bars(frame),
        "pareto": lambda: plots.pareto(frame),
        "curves": lambda: plots.recompute_curves(history(frame)),
    }
    figures, problems = {}, []
    for name in draw:
        try:
            figures[name] = draw[name]()
        except ValueError as error:
            problems.append(f"no figure {name!r}: {error}")
    return figures, problems
