"""Figures of one layer under several pruners: their numbers, and windows onto what they made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sparselab.plots.columns import finite_rows
from sparselab.plots.matrices import draw_window, end_of, window_of
from sparselab.plots.style import COLOURS, Figure, style

WINDOW = (16, 24)
"""The most rows and channels that a window onto what a pruner made shows."""

_SIDE_BY_SIDE = 3


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
        _draw_bars(error, places, drawn["dense_error_percent"], COLOURS[0], "{:.3g}")
        error.vlines(
            drawn["mask_error_percent"], places - 0.4, places + 0.4, color=COLOURS[1], lw=2, label="mask alone"
        )
        error.set_xlim(0, 1.28 * _most(drawn[["dense_error_percent", "mask_error_percent"]]))
        _draw_bars(change, places, drawn["change_percent"], COLOURS[2], "{:.3g}")
        _draw_bars(seconds, places, drawn["seconds"], "#666666", "{:.2g}")
        error.set_yticks(places, [end_of(str(name), 18) for name in drawn["pruner"]])
        error.set_ylim(len(drawn) - 0.4, -0.6)
        error.set(title="Reconstruction error", xlabel="%; orange: by the mask alone")
        change.set(title="Change of kept", xlabel="% of their norm")
        seconds.set(title="Time", xlabel="seconds")
    return figure


def _draw_bars(axes: Axes, places: NDArray[Any], values: pd.Series[float], colour: str, form: str) -> None:
    """Bars with their numbers behind them."""
    most = _most(values)
    axes.barh(places, values, color=colour, height=0.62, alpha=0.55)
    for place, value in zip(places, values):
        axes.annotate(
            form.format(value), (value, place), (4, 0), textcoords="offset points", va="center", color="#000000"
        )
    axes.set_xlim(0, 1.45 * most)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)


def _most(values: pd.Series[float] | pd.DataFrame) -> float:
    return float(values.to_numpy().max()) or 1.0


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
    weights, of that shape. Pruned weights are pale with a dot, lines stand between groups of ``m``
    where it is given. All panels have one scale, from the largest negative (orange) to the largest
    positive weight (purple) of the window. Raises ``ValueError`` for other shapes and for no pruner.
    """
    wrong = [name for name, made in pruned.items() if any(each.shape != weights.shape for each in made)]
    if weights.ndim != 2 or not weights.size or wrong or not pruned:
        raise ValueError(
            f"pruner_windows needs a matrix and for each pruner a mask and weights of its shape, {weights.shape}; "
            f"{f'those of {wrong[0]} have others' if wrong else f'got {len(pruned)} pruners'}"
        )
    rows, channels = window_of(row, weights.shape[0], WINDOW[0]), window_of(channel, weights.shape[1], WINDOW[1])
    scale = max(float(np.abs(each[rows, channels]).max()) for each in (weights, *(new for _, new in pruned.values())))
    lines = -(-len(pruned) // _SIDE_BY_SIDE)
    with style():
        height = 0.15 + 3.95 * lines
        figure = Figure(figsize=(6.4, height), dpi=100)
        places = figure.subplots(2 * lines, _SIDE_BY_SIDE, squeeze=False)
        figure.subplots_adjust(
            left=0.085, right=0.99, bottom=0.5 / height, top=1 - 0.3 / height, wspace=0.13, hspace=0.33
        )
        for axes in places.flat:
            axes.set_visible(False)
        for number, (name, (mask, new)) in enumerate(pruned.items()):
            line, place = divmod(number, _SIDE_BY_SIDE)
            above, below = places[2 * line, place], places[2 * line + 1, place]
            draw_window(above, np.where(mask, new, weights), mask, rows, channels, m, scale)
            change = np.where(mask, new - weights, 0)
            draw_window(below, change, mask, rows, channels, m, scale)
            above.set(title=end_of(name, 20), xlabel="")
            below.set(title="")
            if not change.any():
                _say_unchanged(below)
            for axes, what in ((above, "row: weights"), (below, "row: change")):
                axes.set_visible(True)
                axes.locator_params(nbins=4, integer=True)
                axes.set_ylabel(what if place == 0 else "")
                axes.tick_params(labelleft=place == 0)
    return figure


def _say_unchanged(axes: Axes) -> None:
    axes.text(
        *(0.5, 0.5, "what stays is as it was"),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#222222",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 3},
    )
