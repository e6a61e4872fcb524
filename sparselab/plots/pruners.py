"""Figures of one layer under several pruners: their numbers, and windows onto what they made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sparselab.plots.columns import finite_rows
from sparselab.plots.marks import Mark, line
from sparselab.plots.matrices import cells, draw_window, window_of
from sparselab.plots.style import COLOURS, Figure, style

WINDOW = (16, 16)
"""The most rows and channels that a window onto what a pruner made shows."""

_SIDE_BY_SIDE = 4
_FEWEST_ROWS = 4


def window_rows(pruners: int) -> int:
    """The most rows that the window onto each of so many ``pruners`` shows: lines of windows share those of ``WINDOW``.

    So the picture keeps its height, and its weights their size, where there are several lines; groups
    lie along a row, so that all of them stay whole.
    """
    return max(_FEWEST_ROWS, WINDOW[0] // _lines(pruners))


def _lines(pruners: int) -> int:
    return max(1, -(-pruners // _SIDE_BY_SIDE))


def pruner_bars(frame: pd.DataFrame) -> Figure:
    """Reconstruction error, change of the weights kept and time of several pruners, with their numbers.

    ``frame`` has ``pruner, dense_error_percent, mask_error_percent, change_percent, seconds``, one row
    for each pruner. A line marks the error that its mask alone would have. Raises ``ValueError`` when
    a column is missing or there is nothing to draw.
    """
    columns = ["dense_error_percent", "mask_error_percent", "change_percent", "seconds"]
    drawn = finite_rows(frame, columns, "pruner_bars").reset_index(drop=True)
    places = np.arange(len(drawn))
    with style():
        figure = Figure(figsize=(6.4, 1.35 + 0.27 * len(drawn)), dpi=100)
        room = figure.get_figheight()
        sides = figure.subplots(1, 3, sharey=True, width_ratios=(1.5, 1, 1))
        figure.subplots_adjust(left=0.2, right=0.985, bottom=0.62 / room, top=1 - 0.33 / room, wspace=0.1)
        error, change, seconds = sides
        ends = drawn[["dense_error_percent", "mask_error_percent"]].max(axis=1)
        _draw_bars(error, drawn["dense_error_percent"], ends, COLOURS[0], "{:.3g}")
        error.vlines(
            drawn["mask_error_percent"], places - 0.4, places + 0.4, color=COLOURS[1], lw=2, label="mask alone"
        )
        _draw_bars(change, drawn["change_percent"], drawn["change_percent"], COLOURS[2], "{:.3g}")
        unit, times = ("ms", 1e3 * drawn["seconds"]) if drawn["seconds"].max() < 1 else ("seconds", drawn["seconds"])
        _draw_bars(seconds, times, times, "#666666", "{:.3g}")
        error.set_yticks(places, [_start_of(str(name), 16) for name in drawn["pruner"]])
        error.set_ylim(len(drawn) - 0.4, -0.6)
        error.set(title="Reconstruction error", xlabel="%; orange: by the mask alone")
        change.set(title="Change of kept", xlabel="% of their norm")
        seconds.set(title="Time", xlabel=unit)
        figure.marks = [_mark(axes, place, row) for place, row in drawn.iterrows() for axes in sides]
    return figure


def _mark(axes: Axes, place: Any, row: pd.Series[Any]) -> Mark:
    facts = [
        str(row["pruner"]),
        f"reconstruction error {row['dense_error_percent']:.4g} %",
        f"by its mask alone {row['mask_error_percent']:.4g} %",
        f"kept weights changed by {row['change_percent']:.4g} %",
        f"{row['seconds']:.3g} s",
    ]
    return line(axes, float(place), "\n".join(facts), str(row["pruner"]))


def _draw_bars(axes: Axes, values: pd.Series[float], ends: pd.Series[float], colour: str, form: str) -> None:
    """Bars, which reach to the largest of ``ends`` at most, and their numbers in a column behind them."""
    places = np.arange(len(values))
    axes.barh(places, values, color=colour, height=0.62, alpha=0.55)
    for place, value in zip(places, values):  # in a column, so that none is taken for what a mark beside it stands at
        beside = axes.get_yaxis_transform()
        axes.text(0.99, float(place), form.format(value), transform=beside, ha="right", va="center", color="#000000")
    axes.set_xlim(0, 1.6 * (float(ends.max()) or 1.0))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    marks = np.asarray(MaxNLocator(3).tick_values(0, float(ends.max()) or 1.0))
    axes.set_xticks(marks[marks <= 1.1 * (float(ends.max()) or 1.0)])  # behind the bars begins the next panel's


def pruner_windows(
    weights: NDArray[Any],
    pruned: Mapping[str, tuple[NDArray[np.bool_], NDArray[Any]]],
    m: int | None = None,
    *,
    row: int = 0,
    channel: int = 0,
) -> Figure:
    """The same window onto a weight matrix as several pruners leave it, and how they changed what stays.

    ``weights`` is float ``(rows, channels)``; ``pruned`` has for each pruner its mask and the new
    weights, of that shape. Four pruners stand in a line; the window has ``window_rows`` rows.
    Pruned weights are faint with a dot, lines stand between groups of ``m`` where it is given. Purple is
    above 0, orange below. All weights have one scale, up to the largest in the window, and so have all
    changes; the line at the top says up to what. Raises ``ValueError`` for other shapes and for no pruner.
    """
    wrong = [name for name, made in pruned.items() if any(each.shape != weights.shape for each in made)]
    if weights.ndim != 2 or not weights.size or wrong or not pruned:
        raise ValueError(
            f"pruner_windows needs a matrix and for each pruner a mask and weights of its shape, {weights.shape}; "
            f"{f'those of {wrong[0]} have others' if wrong else f'got {len(pruned)} pruners'}"
        )
    rows = window_of(row, weights.shape[0], window_rows(len(pruned)))
    channels = window_of(channel, weights.shape[1], WINDOW[1])
    changes = {name: np.where(mask, new - weights, 0) for name, (mask, new) in pruned.items()}
    largest = _largest([weights, *(new for _, new in pruned.values())], rows, channels)
    changed = _largest(changes.values(), rows, channels)
    with style():
        figure, panels = _panels(len(pruned), rows.stop - rows.start)
        figure.text(0.085, 1 - 0.08 / figure.get_figheight(), _scales(largest, changed), va="top")
        for (name, (mask, new)), (above, below) in zip(pruned.items(), panels):
            draw_window(above, np.where(mask, new, weights), mask, rows, channels, m, largest)
            draw_window(below, changes[name], mask, rows, channels, m, changed)
            above.set(title=_start_of(name, 15), xlabel="", ylabel="row, w")
            below.set(title="", ylabel="row, Δw")
            figure.marks += cells(above, np.where(mask, new, weights), mask, rows, channels)
            if not changes[name].any():
                _say_unchanged(below)
        _label_outside(figure, len(pruned))
    return figure


def _scales(largest: float, changed: float) -> str:
    to = f", full colour at {changed:.2g}" if changed else ""
    return f"w: as pruned, full colour at {largest:.2g}.  Δw: change of the weights kept{to}."


_ROW = 1.5 / WINDOW[0]  # inches; so are the following
_TOP, _TITLE, _APART, _BOTTOM = 0.27, 0.3, 0.1, 0.5


def _panels(pruners: int, rows: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with two panels for each of so many ``pruners``, for weights above their change."""
    height = max(_ROW * rows, 0.3)
    line = _TITLE + 2 * height + _APART
    inches = _TOP + line * _lines(pruners) + _BOTTOM
    figure = Figure(figsize=(6.4, inches), dpi=100)
    found = []
    for number in range(pruners):
        down, across = divmod(number, _SIDE_BY_SIDE)
        top = inches - _TOP - line * down - _TITLE
        left, width = 0.085 + 0.23 * across, 0.21
        above, below = (
            figure.add_axes((left, (top - under) / inches, width, height / inches))
            for under in (height, 2 * height + _APART)
        )
        found.append((above, below))
    return figure, found


def _label_outside(figure: Figure, pruners: int) -> None:
    """Numbers and names of axes only to the left of a line and below the last panel of a column."""
    for number, axes in enumerate(figure.axes):
        place, is_below = number // 2, number % 2 == 1
        left, last = place % _SIDE_BY_SIDE == 0, is_below and place + _SIDE_BY_SIDE >= pruners
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.locator_params(axis="y", nbins=4, integer=True)
        axes.tick_params(labelleft=left, labelbottom=last)
        axes.set(xlabel="input channel" if last else "", ylabel=axes.get_ylabel() if left else "")


def _largest(matrices: Iterable[NDArray[Any]], rows: slice, channels: slice) -> float:
    """The largest size in a window of any of ``matrices``."""
    return max(float(np.abs(each[rows, channels]).max()) for each in matrices)


def _say_unchanged(axes: Axes) -> None:
    axes.text(
        *(0.5, 0.5, "unchanged"),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#222222",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 3},
    )


def _start_of(name: str, most: int) -> str:
    """A pruner's name, cut where its options are long."""
    return name if len(name) <= most else f"{name[: most - 3]}..."
