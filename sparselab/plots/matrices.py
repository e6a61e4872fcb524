"""Figures of one weight matrix, its mask and its order, and of what runs, quick enough to be redrawn live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sparselab.plots.columns import quantity, require_columns
from sparselab.plots.marks import Mark, column, point
from sparselab.plots.strips import end_of
from sparselab.plots.style import COLOURS, MARKERS, Figure, plain_numbers, style


def mask_view(
    weights: NDArray[Any], mask: NDArray[np.bool_], m: int | None = None, *, row: int = 0, channel: int = 0
) -> Figure:
    """A weight matrix and its mask: the whole of it, a window of it, and the sizes of the weights kept and pruned.

    ``weights`` is float ``(rows, channels)``, ``mask`` bool of that shape. The whole is drawn as means of ``|w|`` over
    blocks; the window, ``WINDOW`` weights at most, starts at ``row`` and ``channel`` and shows each weight, pruned ones
    faint with a dot, with a line between groups of ``m`` where it is given.
    """
    _require_mask(weights, mask, "mask_view")
    with style():
        figure = Figure(figsize=(10.4, 3.5), dpi=100)
        whole, window, sizes = figure.subplots(1, 3, width_ratios=(1.0, 1.75, 1.15))
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.15, top=0.9, wspace=0.25)
        rows, channels = _windows(weights, row, channel)
        _draw_whole(whole, weights, rows, channels)
        draw_window(window, weights, mask, rows, channels, m)
        _draw_sizes(sizes, weights, mask)
    return figure


def whole_matrix(weights: NDArray[Any], *, row: int = 0, channel: int = 0) -> Figure:
    """The left panel of ``mask_view``: all of a weight matrix, and where its window stands.

    The key of a mark is ``"row,channel"``, the first of both there.
    """
    if weights.ndim != 2 or not weights.size:
        raise ValueError(f"whole_matrix needs a matrix, got shape {weights.shape}")
    with style():
        figure = Figure(figsize=(2.7, 3.1), dpi=100)
        axes = figure.add_axes((0.22, 0.16, 0.75, 0.75))
        _draw_whole(axes, weights, *_windows(weights, row, channel))
        figure.marks = list(_blocks(axes, weights))
    return figure


def mask_window(
    weights: NDArray[Any], mask: NDArray[np.bool_], m: int | None = None, *, row: int = 0, channel: int = 0
) -> Figure:
    """The middle panel of ``mask_view``."""
    _require_mask(weights, mask, "mask_window")
    with style():
        figure = Figure(figsize=(4.1, 3.1), dpi=100)
        axes = figure.add_axes((0.09, 0.16, 0.9, 0.75))
        rows, channels = _windows(weights, row, channel)
        draw_window(axes, weights, mask, rows, channels, m)
        figure.marks = cells(axes, weights, mask, rows, channels)
    return figure


def weight_sizes(weights: NDArray[Any], mask: NDArray[np.bool_]) -> Figure:
    """Histogram of the weights kept, stacked on that of the weights pruned: the right panel of ``mask_view``."""
    _require_mask(weights, mask, "weight_sizes")
    with style():
        figure = Figure(figsize=(3.1, 3.1), dpi=100)
        axes = figure.add_axes((0.2, 0.16, 0.77, 0.75))
        figure.marks = _draw_sizes(axes, weights, mask)
    return figure


def _require_mask(weights: NDArray[Any], mask: NDArray[np.bool_], figure: str) -> None:
    if weights.ndim != 2 or weights.shape != mask.shape or not weights.size:
        raise ValueError(f"{figure} needs two matrices of one shape, got {weights.shape} and {mask.shape}")


WINDOW = (24, 48)
"""The most rows and channels that a window onto a weight matrix shows."""

BESIDE = WINDOW[1] * 2 // 3
"""The most channels that each of two windows beside each other shows."""

_CELLS = 120  # a side of a matrix drawn as a whole: enough for the picture's pixels


def _windows(weights: NDArray[Any], row: int, channel: int) -> tuple[slice, slice]:
    """The rows and the channels of the window that starts at ``row`` and ``channel``, or as near to it as it fits."""
    return window_of(row, weights.shape[0], WINDOW[0]), window_of(channel, weights.shape[1], WINDOW[1])


def window_of(start: int, size: int, most: int) -> slice:
    """The ``most`` places of ``size`` from ``start`` on, or as near to it as they fit."""
    start = max(0, min(start, size - most))
    return slice(start, min(size, start + most))


def _block_means(matrix: NDArray[Any]) -> NDArray[Any]:
    """Means over blocks so that at most ``_CELLS`` x ``_CELLS`` are left."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        starts = np.arange(0, size, -(-size // _CELLS))
        counts = np.diff([*starts, size])
        matrix = np.add.reduceat(matrix, starts, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return matrix


def _draw_whole(axes: Axes, weights: NDArray[Any], rows: slice, channels: slice) -> None:
    outputs, inputs = weights.shape
    axes.imshow(
        _block_means(np.abs(weights)),
        cmap="Blues",
        aspect="auto",
        vmin=0,
        extent=(-0.5, inputs - 0.5, outputs - 0.5, -0.5),
    )
    corner = (channels.start - 0.5, rows.start - 0.5)
    axes.add_patch(
        Rectangle(corner, channels.stop - channels.start, rows.stop - rows.start, fill=False, ec=COLOURS[1], lw=1.8)
    )
    axes.grid(visible=False)
    axes.set(title="Mean |w|, all of it", xlabel="input channel", ylabel="row")


def _blocks(axes: Axes, weights: NDArray[Any]) -> Iterator[Mark]:
    """Marks that cover a matrix, as large as a window or larger, so that there are few enough to go through by keys."""
    down, across = (max(most, -(-size // _MOST_BLOCKS)) for most, size in zip(WINDOW, weights.shape))
    for row in range(0, weights.shape[0], down):
        for channel in range(0, weights.shape[1], across):
            part = np.abs(weights[row : row + down, channel : channel + across])
            low, high = (channel - 0.5, row - 0.5), (channel + part.shape[1] - 0.5, row + part.shape[0] - 0.5)
            text = (
                f"Rows {row} to {row + part.shape[0] - 1}\nchannels {channel} to {channel + part.shape[1] - 1}\n"
                f"mean |w| {part.mean():.3g}"
            )
            yield Mark(axes, low, high, text, f"{row},{channel}")


_MOST_BLOCKS = 12  # a side


def cells(
    axes: Axes,
    weights: NDArray[Any],
    mask: NDArray[np.bool_],
    rows: slice,
    channels: slice,
    order: NDArray[np.int64] | None = None,
) -> list[Mark]:
    """A mark for each weight of a window, which says its place, its value and whether ``mask`` keeps it.

    ``order`` has the channel at each place, where they changed places.
    """
    found = []
    for row in range(rows.start, rows.stop):
        for place in range(channels.start, channels.stop):
            channel = place if order is None else order[place]
            kept = "kept" if mask[row, place] else "pruned"
            text = f"Row {row}, channel {channel}\n{weights[row, place]:.4g}, {kept}"
            low, high = (place - 0.5, row - 0.5), (place + 0.5, row + 0.5)
            found.append(Mark(axes, low, high, text, f"{row},{channel}"))
    return found


def draw_window(
    axes: Axes,
    weights: NDArray[Any],
    mask: NDArray[np.bool_],
    rows: slice,
    channels: slice,
    m: int | None,
    scale: float | None = None,
) -> None:
    """Each weight of a window: purple above 0, orange below, faint with a dot where the mask takes it.

    ``scale`` is the size of weights of full colour, by default of the largest in the window.
    """
    part, kept = weights[rows, channels], mask[rows, channels]
    near = scale or float(np.abs(part).max()) or 1.0
    colours = mpl.colormaps["PuOr"]((part / near + 1) / 2)
    colours[~kept, :3] += 0.8 * (1 - colours[~kept, :3])
    axes.imshow(
        colours,
        aspect="auto",
        interpolation="nearest",
        extent=(channels.start - 0.5, channels.stop - 0.5, rows.stop - 0.5, rows.start - 0.5),
    )
    down, across = np.nonzero(~kept)
    axes.plot(across + channels.start, down + rows.start, ".", color="#7A7A7A", ms=2.0)
    if m is not None:
        lines = np.arange(-(-channels.start // m) * m, channels.stop, m) - 0.5
        axes.vlines(lines, rows.start - 0.5, rows.stop - 0.5, color="#666666", lw=0.6)
    axes.set_xlim(channels.start - 0.5, channels.stop - 0.5)
    axes.grid(visible=False)
    axes.set(title="Window: pruned weights faint, dotted", xlabel="input channel")


def _draw_sizes(axes: Axes, weights: NDArray[Any], mask: NDArray[np.bool_]) -> list[Mark]:
    """Draw them, and a mark for each bin."""
    bins, top = 80, float(max(weights.max(), -weights.min())) or 1.0
    flat, kept = weights.ravel(), mask.ravel()
    index = np.minimum((flat + top) * (bins / (2 * top)), bins - 1).astype(np.uint8)
    counts = np.bincount(index + kept * np.uint8(bins), minlength=2 * bins)
    edges = np.linspace(-top, top, bins + 1)
    filled = np.flatnonzero(counts.reshape(2, bins).sum(0) > 1e-4 * len(flat))
    axes.stairs(counts[bins:] + counts[:bins], edges, fill=True, color=COLOURS[0], label="kept")
    axes.stairs(counts[:bins], edges, fill=True, color=COLOURS[4], label="pruned")
    if len(filled):
        reach = max(-edges[filled[0]], edges[filled[-1] + 1])
        axes.set_xlim(-reach, reach)
    axes.yaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
    axes.set(title="Kept and pruned weights", xlabel="weight", ylabel="how many, stacked")
    axes.set_ylim(top=1.22 * float((counts[bins:] + counts[:bins]).max()))  # a line of room for the legend
    axes.legend(loc="upper right", handlelength=1.2, ncols=2, borderaxespad=0.0, columnspacing=1.0)
    shown = range(filled[0], filled[-1] + 1) if len(filled) else range(0)
    half = (edges[1] - edges[0]) / 2
    said = {
        place: f"From {edges[place]:.3g} to {edges[place + 1]:.3g}\nkept {counts[bins + place]:,}\npruned {counts[place]:,}"
        for place in shown
    }
    return [column(axes, float(edges[place]) + half, text, place, half=half) for place, text in said.items()]


def order_view(
    weights: NDArray[Any],
    order: NDArray[np.int64],
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    m: int,
    *,
    row: int = 0,
    channel: int = 0,
) -> Figure:
    """The same window of a weight matrix before and after its channels change places.

    ``masks`` are those of ``weights`` and of ``weights[:, order]``. The window starts at ``row`` and the place ``channel``.
    Pruned weights are faint with a dot; groups of ``m`` are apart by lines.
    """
    before, after = masks
    if not weights.shape == before.shape == after.shape or order.shape != weights.shape[1:]:
        raise ValueError(
            f"order_view needs masks of the weights' shape and an order of their channels, got weights {weights.shape}, "
            f"masks {before.shape} and {after.shape}, order {order.shape}"
        )
    rows, channels = window_of(row, weights.shape[0], WINDOW[0]), window_of(channel, weights.shape[1], BESIDE)
    with style():
        figure = Figure(figsize=(6.4, 3.7), dpi=100)
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.085, right=0.99, bottom=0.19, top=0.91, wspace=0.14)
        figure.text(0.085, 0.02, "Purple: above 0. Orange: below. Faint, with a dot: pruned.")
        draw_window(left, weights, before, rows, channels, m)
        draw_window(right, weights[:, order], after, rows, channels, m)
        left.set(title="As trained", ylabel="row")
        right.set(title="Channels permuted", xlabel="place of the channel")
        figure.marks = [
            *cells(left, weights, before, rows, channels),
            *cells(right, weights[:, order], after, rows, channels, order),
        ]
    return figure


def running_searches(frame: pd.DataFrame, bound: float | None = None) -> Figure:
    """Efficacy against time of running or finished searches: one line per strategy.

    ``bound`` is a dashed line. ``frame`` has ``strategy, seconds, efficacy``: a row at every
    improvement, and one where a search ended.
    """
    require_columns(frame, ("strategy", "seconds", "efficacy"), "running_searches")
    with style():
        figure = Figure(figsize=(5.6, 2.8), dpi=100)
        axes = figure.add_axes((0.1, 0.17, 0.48, 0.72))
        start = _decade_below(frame.loc[frame["seconds"] > 0, "seconds"])
        on_the_way: list[Mark] = []
        for number, (strategy, rows) in enumerate(frame.groupby("strategy", sort=False)):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            seconds, last = rows["seconds"].clip(lower=start), float(rows["efficacy"].iloc[-1])
            axes.step(seconds, rows["efficacy"], where="post", color=colour, lw=1.6)
            axes.plot(
                seconds.iloc[-1:], [last], marker, color=colour, ms=6, label=f"{end_of(str(strategy), 20)}: {last:.1f}"
            )
            text = f"{strategy}\nefficacy {last:.2f} after {float(rows['seconds'].iloc[-1]):.2f} s"
            figure.marks.append(point(axes, float(seconds.iloc[-1]), last, text, str(strategy)))
            on_the_way += _on_the_way(axes, str(strategy), rows, start)
        figure.marks += on_the_way  # by keys the ends come first
        if bound is not None:
            axes.axhline(bound, color="#666666", lw=1, ls="--", label=f"upper bound: {bound:.1f}")
        axes.set_ylim(top=max(1.0, axes.get_ylim()[1]))  # at the start, before anything is found, too
        axes.set_xscale("log")
        axes.set_xlim(start, 1.5 * max(10 * start, float(frame["seconds"].max())))
        plain_numbers(axes.xaxis)
        axes.set(xlabel="seconds", ylabel="efficacy, % of the way to the ideal", title="What each search has found")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), title="strategy: efficacy", alignment="left")
    return figure


def _decade_below(seconds: pd.Series[float]) -> float:
    """The power of ten below all of ``seconds``, where their logarithmic axis begins; a hundredth where there are none."""
    return 10.0 ** np.floor(np.log10(max(1e-4, float(seconds.min())))) if len(seconds) else 1e-2


def _on_the_way(axes: Axes, strategy: str, rows: pd.DataFrame, start: float) -> Iterator[Mark]:
    """Marks of what a search had found by when, few enough to go through by keys."""
    found = rows.iloc[1:-1]
    for at, best in found.iloc[:: -(-len(found) // _MOST_ON_THE_WAY) or 1][["seconds", "efficacy"]].to_numpy().tolist():
        text = f"{strategy}\nefficacy {best:.2f} after {at:.2f} s"
        yield point(axes, max(at, start), best, text, f"{strategy} at {at}", radius=5.0)


_MOST_ON_THE_WAY = 30


def training_curves(frame: pd.DataFrame) -> Figure:
    """Runs side by side while they train: two metrics, magnitude retained and mask entries that flip, one line per run.

    ``frame`` has ``run, step, quantity, value`` with the quantities ``retained_percent``,
    ``flipped_percent`` and those of the task: of these the first two are drawn, by
    ``attrs["quantities"]`` or else in the order in which they come. A quantity without rows is an
    empty panel that says so.
    """
    require_columns(frame, ("run", "step", "quantity", "value"), "training_curves")
    runs = list(dict.fromkeys(frame["run"]))
    columns = 1 if any(len(str(run)) > 34 for run in runs) else 2
    with style():
        figure = Figure(figsize=(6.4, 5.4), dpi=100)
        places = figure.subplots(2, 2, sharex=True)
        figure.subplots_adjust(
            left=0.125, right=0.985, bottom=0.09, top=0.93 - 0.036 * -(-len(runs) // columns), wspace=0.32, hspace=0.25
        )
        for axes, (name, title, label) in zip(places.flat, _panels_of(frame)):
            figure.marks += _draw_runs(axes, frame[frame["quantity"] == name], runs, title)
            axes.set(title=title, ylabel=label)
            axes.set_visible(bool(name) or len(frame.attrs.get("quantities", ())) != 1)  # a task may have one metric
            if name == "flipped_percent":
                axes.set_ylim(bottom=0)
        for axes in places[1]:
            axes.set_xlabel("step")
        handles = {label: handle for axes in places.flat for handle, label in zip(*axes.get_legend_handles_labels())}
        if handles:
            figure.legend(
                handles.values(), handles.keys(), ncols=columns, loc="upper left", bbox_to_anchor=(0.115, 0.995)
            )
    return figure


_OF_MASKS = {
    "retained_percent": ("Retained magnitude", "% of the dense sum of |w|"),
    "flipped_percent": ("Mask entries that flip", "% at a recomputation"),
}


def _panels_of(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Quantity, title and label of the four panels; what nothing measures has no name."""
    said = [each["name"] for each in frame.attrs.get("quantities", ())]
    of_task = [name for name in said or dict.fromkeys(frame["quantity"]) if not str(name).endswith("_percent")]
    first, second = [*map(str, of_task), "", ""][:2]
    told = [(name, quantity(frame, name).label, "on held-out data" if name else "") for name in (first, second)]
    return [*told, *((name, *words) for name, words in _OF_MASKS.items())]


def _draw_runs(axes: Axes, rows: pd.DataFrame, runs: Sequence[str], title: str) -> list[Mark]:
    """One quantity over the steps, one line per run; each run looks alike in all panels. Returns the marks of its points."""
    marks: list[Mark] = []
    for run, points in rows.groupby("run", sort=False):
        number = runs.index(run)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        points = points.sort_values("step")
        axes.plot(points["step"], points["value"], color=colour, marker=marker, ms=3, lw=1.3, label=str(run))
        marks += [
            point(axes, step, value, f"{run}\n{title} {value:.4g}\nstep {step}", f"{run} {title} {step}")
            for step, value in zip(points["step"].astype(int), points["value"])
        ]
    if rows.empty:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", color="#666666")
    return marks
