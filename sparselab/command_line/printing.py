"""Frames on standard output."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

_PIPED = 120  # characters in a line where the output is no terminal
_GAP = "  "
_NAME = 32  # what a text keeps at least while columns can still be left out instead
_LEAST = 12  # and when none is left
_WRAPPED = 24  # what the column that is wrapped keeps


def print_frame(frame: pd.DataFrame, as_json: bool) -> None:
    """``frame`` as a table for readers, or as JSON records."""
    if as_json:
        print(frame.to_json(orient="records", double_precision=15))
        return
    shown = frame.drop(columns="order", errors="ignore")
    print_table(shown, always=[str(name) for name in shown])


def print_table(frame: pd.DataFrame, always: Collection[str] = (), wrapped: str | None = None) -> None:
    """``frame`` as a table that fits the terminal.

    A column with one value in every row is no column: it is said once, below. So are the names of those that have no
    room, from the right. Both are for columns that are not ``always`` there. Long lines are broken in the column
    ``wrapped``, the last.
    """
    width = shutil.get_terminal_size((_PIPED, 24)).columns
    columns = [_Column.of(str(name), frame[name], name == wrapped) for name in frame]
    same = [each for each in columns if len(frame) > 1 and each.is_alike and each.name not in always]
    varying = [each for each in columns if each not in same]
    shown = _with_room(varying, always, width)
    print(*_lines([each.cut(_limit(shown, width)) for each in shown], width), sep="\n")
    said = [f"{each.name} {each.cells[0]}" for each in same if each.cells[0] not in ("", "-")]
    _print_names("the same in every row: ", said, width)
    _print_names("no room here, --json has it: ", [each.name for each in varying if each not in shown], width)


@dataclass(frozen=True)
class Spread:
    """A mean and the standard deviation around it, NaN of one value: ``97.44 ± 0.16``."""

    mean: float
    deviation: float

    @property
    def is_exact(self) -> bool:
        """Whether all values are one: adding equal values leaves a little."""
        return not self.deviation > 1e-9 * abs(self.mean)

    def __str__(self) -> str:
        """The deviation with two digits, and the mean to the same place."""
        if math.isnan(self.mean):
            return "-"
        if self.is_exact:
            return f"{self.mean:.5g}"
        if not 1e-5 < self.deviation < 1e5:
            return f"{self.mean:.5g} ± {self.deviation:.2g}"
        places = max(0, 1 - math.floor(math.log10(self.deviation)))
        return f"{self.mean:.{places}f} ± {self.deviation:.{places}f}"


@dataclass(frozen=True, eq=False)
class _Column:
    """A column as texts; numbers are never cut. ``is_alike``: whether all values are one, not only their texts."""

    name: str
    cells: Sequence[str]
    is_number: bool
    is_wrapped: bool = False
    is_alike: bool = False

    @classmethod
    def of(cls, name: str, values: pd.Series[Any], is_wrapped: bool) -> _Column:
        numbers = all(_is_number(value) for value in values)
        alike = len({_identity(value) for value in values}) == 1
        return cls(name, [_text(value) for value in values], numbers, is_wrapped, alike)

    @property
    def width(self) -> int:
        return max(map(len, (self.name, *self.cells)))

    def cut(self, limit: int) -> _Column:
        """This column with texts of no more than ``limit`` characters."""
        if self.is_wrapped:
            return self
        name = _cut(self.name, limit)
        return _Column(name, self.cells if self.is_number else [self._cut(each, limit) for each in self.cells],
                       self.is_number)  # fmt: skip

    def _cut(self, text: str, limit: int) -> str:
        """A layer is known by the end of its name, anything else by its beginning."""
        if self.name == "layer" and len(text) > limit:
            return f"...{text[len(text) - limit + 3 :].lstrip('.')}"
        return _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _identity(value: Any) -> str:
    """What tells ``value`` from others, but for rounding."""
    if isinstance(value, Spread):
        return f"{value.mean:.9g}" if value.is_exact else f"{value.mean:.9g} {value.deviation:.9g}"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, Spread)
        or (pd.api.types.is_number(value) and not pd.api.types.is_bool(value))
        or _text(value) == "-"
    )


def _text(value: Any) -> str:
    if value is None or value is pd.NA or value != value:  # NaN
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _taken(columns: Sequence[_Column], limit: int) -> int:
    """The characters that lines of ``columns`` need, with texts cut to ``limit``."""
    widths = [min(each.width, _WRAPPED) if each.is_wrapped else each.cut(limit).width for each in columns]
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _with_room(columns: Sequence[_Column], always: Collection[str], width: int) -> list[_Column]:
    """``columns`` but for the last ones that would make lines longer than ``width``."""
    shown = list(columns)
    for each in reversed(columns):
        if _taken(shown, _NAME) <= width:
            break
        if each.name not in always and not each.is_wrapped:
            shown.remove(each)
    return shown


def _limit(columns: Sequence[_Column], width: int) -> int:
    """How long texts may be for lines of ``width``."""
    longest = max(each.width for each in columns)
    return next((limit for limit in range(longest, _LEAST, -1) if _taken(columns, limit) <= width), _LEAST)


def _lines(columns: Sequence[_Column], width: int) -> list[str]:
    """The header and the rows."""
    rest = max(_WRAPPED, width - sum(each.width + len(_GAP) for each in columns if not each.is_wrapped))
    lines = []
    for row in zip(*((each.name, *each.cells) for each in columns), strict=True):
        parts = [textwrap.wrap(text, rest) or [""] if each.is_wrapped else [text]
                 for each, text in zip(columns, row, strict=True)]  # fmt: skip
        for number in range(max(map(len, parts))):
            texts = [part[number] if number < len(part) else "" for part in parts]
            lines.append(_GAP.join(map(_placed, columns, texts)).rstrip())
    return lines


def _placed(column: _Column, text: str) -> str:
    if column.is_wrapped:
        return text
    return text.rjust(column.width) if column.is_number else text.ljust(column.width)


def _print_names(what: str, names: Sequence[str], width: int) -> None:
    if names:
        print(textwrap.fill(what + ", ".join(names), width, subsequent_indent=_GAP, break_on_hyphens=False))
