"""Where the layers of a network stand under the roofs of a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from sparselab.plots.columns import finite_rows, require_columns
from sparselab.plots.marks import Mark, point
from sparselab.plots.style import COLOURS, MARKERS, Figure, plain_numbers, style

_KINDS = (
    ("a sparse kernel takes it", COLOURS[0], MARKERS[0]),
    ("depthwise", COLOURS[1], MARKERS[1]),
    ("no kernel takes it", "#777777", MARKERS[2]),
)


def roofline(frame: pd.DataFrame) -> Figure:
    """The layers of ``sl.forecast`` under the roofs of the GPU: one panel per batch.

    To the right, more arithmetic per byte; up, more of it per second, at best. Under the slope a
    layer waits for memory, under the flat roof for the tensor cores. The bar above a layer ends
    where the best sparse kernel would have it, with the same arithmetic counted. The size of a mark
    is the layer's share of the time. ``frame`` has ``layer, batch, flops, intensity, channels,
    positions, kernel, dense_us_lower, speedup_upper, share_percent``, and in ``frame.attrs`` the
    rates. Raises ``ValueError`` when a column is missing or there is nothing to draw.
    """
    columns = ("flops", "intensity", "dense_us_lower", "speedup_upper", "share_percent")
    require_columns(frame, ("layer", "batch", "kernel", "channels", "positions", *columns), "roofline")
    drawn = finite_rows(frame, list(columns), "roofline")
    drawn = drawn[drawn["dense_us_lower"] > 0]
    drawn = drawn.assign(rate=drawn["flops"] / drawn["dense_us_lower"] / 1e6)
    batches = list(dict.fromkeys(drawn["batch"]))
    shown = min(3, len(batches))
    with style():
        rows, beside = -(-len(batches) // shown), 3 if shown > 1 else 1
        height = 1.1 + 3.3 * rows + (0 if beside > 1 else 0.4)
        figure = Figure(figsize=(max(5.4, 4.1 * shown), height), dpi=100, layout="constrained")
        panels = figure.subplots(rows, shown, squeeze=False, sharex=True, sharey=True).ravel()
        spread = _spread(drawn, frame)
        for axes, batch in zip(panels, batches):
            _draw(axes, drawn[drawn["batch"] == batch], frame, spread)
            figure.marks += [_mark(axes, row) for _, row in drawn[drawn["batch"] == batch].iterrows()]
            axes.set_title(f"batch {batch}")
        for axes in panels[len(batches) :]:
            axes.set_visible(False)
        for axes in panels[::shown]:
            axes.set_ylabel("10¹² operations per second, at best")
        for axes in panels[len(batches) - shown : len(batches)]:
            axes.set_xlabel("operations per byte")
        figure.suptitle(f"{frame.attrs['hardware']}, {frame.attrs['dtype']}, {frame.attrs['pattern']}", fontsize=9.5)
        figure.legend(handles=_legend(drawn), ncols=beside, loc="outside lower center")
    return figure


def _spread(drawn: pd.DataFrame, frame: pd.DataFrame) -> tuple[float, float]:
    """The intensities to draw: those of the layers, and the ridge with room behind it for the names of the roofs."""
    ridge = frame.attrs["dense_rate"] * 1e3 / frame.attrs["bandwidth"]
    return min(drawn["intensity"].min(), ridge) / 2, max(drawn["intensity"].max(), ridge) * 4


def _draw(axes: Axes, rows: pd.DataFrame, frame: pd.DataFrame, spread: tuple[float, float]) -> None:
    intensity = np.geomspace(*spread, 200)
    slope = intensity * frame.attrs["bandwidth"] / 1e3
    axes.plot(intensity, np.minimum(slope, frame.attrs["dense_rate"]), color="#333333", lw=1.4)
    roof = frame.attrs["sparse_rate"]
    axes.plot(intensity, np.minimum(slope, roof), color="#333333", lw=1.0, ls="--")
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": True, "ha": "right", "fontsize": 7.5}
    axes.text(0.99, roof, "2:4 peak", va="bottom", **beside)  # at the border, where a box is zoomed to, too
    axes.text(0.99, 0.88 * frame.attrs["dense_rate"], "dense peak", va="top", **beside)
    for (_, colour, marker), chosen in zip(_KINDS, _by_kind(rows)):
        size = 12 + 9 * chosen["share_percent"].clip(upper=30)
        axes.vlines(chosen["intensity"], chosen["rate"], chosen["rate"] * chosen["speedup_upper"], color=colour, lw=1.2)
        axes.scatter(chosen["intensity"], chosen["rate"], s=size, color=colour, marker=marker, alpha=0.65, lw=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        plain_numbers(axis)
    axes.set_xlim(*spread)
    axes.set_ylim(top=roof * 1.9)


def _mark(axes: Axes, row: pd.Series[Any]) -> Mark:
    """What a layer is, and how fast it is at best."""
    facts = [
        str(row["layer"]).removesuffix(".weight"),
        f"{row['dense_us_lower']:.3g} µs at least, {row['share_percent']:.1f} % of the time",
        f"{row['intensity']:.3g} operations per byte",
        f"{row['kernel'] or 'no sparse kernel'}, at most {row['speedup_upper']:.2f} times as fast",
    ]
    return point(axes, float(row["intensity"]), float(row["rate"]), "\n".join(facts), str(row["layer"]))


def _by_kind(rows: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """The rows of each of ``_KINDS``."""
    taken = rows["kernel"] != ""
    depthwise = ~taken & (rows["channels"] == 1) & (rows["positions"] > 1)
    return rows[taken], rows[depthwise], rows[~taken & ~depthwise]


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _legend(rows: pd.DataFrame) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, ls="", label=f"{label} ({_layers(chosen['layer'].nunique())})")
        for (label, colour, marker), chosen in zip(_KINDS, _by_kind(rows))
        if len(chosen)
    ]
