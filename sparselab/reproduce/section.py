"""A section of the report: words, tables and figures, and how they are written to a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """What the parts of a reproduction may ask.

    ``full``: hours rather than minutes. ``store``: the SQLite file that trials are kept in and
    resumed from; ``None`` runs all anew. ``progress``: show progress bars. ``device``: where
    networks are trained.
    """

    full: bool = False
    progress: bool = True
    store: Path | None = None
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, eq=False)
class Section:
    """One part's result. ``text`` is Markdown; tables become ``NAME.csv``, figures ``NAME.png`` beside the report.

    ``trial_seconds`` is what its trials took when they ran, which may have been in an earlier run
    that this one resumed.
    """

    title: str
    text: str
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    trial_seconds: float = 0.0

    def write(self, folder: Path, name: str) -> None:
        """Write everything, the text as ``NAME.md``; a file is replaced only when the new one is complete."""
        for table, frame in self.tables.items():
            replace_file(folder / f"{table}.csv", frame.to_csv(index=False))
        for figure_name, figure in self.figures.items():
            partial = folder / f".{figure_name}.partial.png"
            figure.savefig(partial)
            partial.replace(folder / f"{figure_name}.png")
        replace_file(folder / f"{name}.md", f"## {self.title}\n\n{self.text.strip()}\n")


def replace_file(file: Path, text: str) -> None:
    """Write ``text`` to ``file``, which is as it was until all is written."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def markdown_table(frame: pd.DataFrame, formats: Mapping[str, str] | None = None) -> str:
    """``frame`` as a Markdown table.

    ``formats`` maps columns to format specs; NaN is an empty cell; numbers align right.

    >>> print(markdown_table(pd.DataFrame({"layer": ["a"], "lost": [12.345]}), {"lost": ".1f"}))
    | layer | lost |
    | --- | ---: |
    | a | 12.3 |
    """
    formats = formats or {}
    rules = ["---:" if pd.api.types.is_numeric_dtype(frame[column]) else "---" for column in frame]
    rows = [
        [_cell(value, formats.get(str(column), "")) for column, value in zip(frame.columns, row)]
        for row in frame.itertuples(index=False)
    ]
    lines = [[str(column) for column in frame.columns], rules, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object, spec: str) -> str:
    if isinstance(value, float) and value != value:
        return ""
    return format(value, spec).replace("|", "\\|")


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of ``frame``, whose columns are attributes.

    They are untyped: what pandas could hold in a cell is no help.
    """
    yield from frame.itertuples(index=False)
