"""Figures from frames: pure functions, one style, colours that survive colour blindness and grey print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, dark enough ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 80,
    "savefig.dpi": 150,
}


class _Figure(Figure):
    """A figure that a notebook shows by itself, without pyplot and its global list of figures."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def require_columns(frame: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Raise ``ValueError`` naming the columns that ``figure`` needs and ``frame`` lacks, or that there are no rows."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"{figure} needs the columns {missing}; the frame has {list(frame.columns)}")
    if frame.empty:
        raise ValueError(f"{figure}: the frame has no rows, so there is nothing to draw")


def loss_by_layer(frame: pd.DataFrame) -> Figure:
    """Magnitude lost by every layer, a series a pattern.

    ``frame`` has ``layer, pattern, lost_percent``; layers are drawn top to bottom in the order in which they come,
    NaN (not eligible) is left out. Raises ``ValueError`` when a column is missing or there is nothing to draw.
    """
    require_columns(frame, ("layer", "pattern", "lost_percent"), "loss_by_layer")
    drawn = frame.dropna(subset=["lost_percent"])
    require_columns(drawn, (), "loss_by_layer")
    layers = list(dict.fromkeys(drawn["layer"]))
    height = {layer: position for position, layer in enumerate(layers)}
    with _style():
        figure = _Figure(figsize=(8.0, 1.4 + 0.19 * len(layers)), layout="constrained")
        axes = figure.add_subplot()
        for (pattern, rows), colour, marker in zip(
            drawn.groupby("pattern", sort=False), _cycle(COLOURS), _cycle(MARKERS)
        ):
            axes.plot(rows["lost_percent"], rows["layer"].map(height), marker, color=colour, ms=4.5, label=str(pattern))
        axes.set_yticks(range(len(layers)), [_short(layer) for layer in layers], fontsize=7.5)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("magnitude lost, % of the layer's sum of |w|")
        axes.set_title("What each pattern takes from each layer")
        figure.legend(title="kept", ncols=min(4, drawn["pattern"].nunique()), loc="outside lower center")
    return figure


def efficacy_by_layer(frame: pd.DataFrame) -> Figure:
    """Magnitude lost by every layer before and after its permutation, with the ideal that no order can beat.

    ``frame`` has ``layer, lost_percent, permuted_lost_percent, ideal_lost_percent``.
    """
    columns = ("layer", "lost_percent", "permuted_lost_percent", "ideal_lost_percent")
    require_columns(frame, columns, "efficacy_by_layer")
    heights = range(len(frame))
    with _style():
        figure = _Figure(figsize=(8.0, 1.4 + 0.19 * len(frame)), layout="constrained")
        axes = figure.add_subplot()
        axes.hlines(heights, frame["permuted_lost_percent"], frame["lost_percent"], color="#999999", lw=1.2)
        for column, label, colour, marker in (
            ("lost_percent", "as trained", COLOURS[1], "s"),
            ("permuted_lost_percent", "channels permuted", COLOURS[0], "o"),
            ("ideal_lost_percent", "ideal (best of every row)", "#666666", "|"),
        ):
            axes.plot(frame[column], heights, marker, color=colour, ms=5, label=label)
        axes.set_yticks(heights, [_short(layer) for layer in frame["layer"]], fontsize=7.5)
        axes.set_ylim(len(frame) - 0.4, -0.6)
        axes.set_xlabel("magnitude lost, % of the layer's sum of |w|")
        axes.set_title("What a permutation of the input channels wins back")
        figure.legend(ncols=3, loc="outside lower center")
    return figure


def _cycle(values: tuple[str, ...]) -> Iterator[str]:
    while True:
        yield from values


def _short(layer: str) -> str:
    return layer.removesuffix(".weight")


def search_pareto(frame: pd.DataFrame) -> Figure:
    """Quality against time of every strategy, a panel a matrix size, the upper bound as a line.

    ``frame`` has ``strategy, rows, channels, seconds, efficacy`` and may have ``bound`` and ``time_limit``; rows of several
    seeds are averaged. Names that differ only in their options (``"stripe_groups,8,0"``, ``"stripe_groups,8,100"``), or in
    the time limit, are one line. Controls far below (``random``) set no axis limits.
    """
    require_columns(frame, ("strategy", "rows", "channels", "seconds", "efficacy"), "search_pareto")
    sizes = frame[["rows", "channels"]].drop_duplicates().to_numpy().tolist()
    families = list(dict.fromkeys(_family(name) for name in frame["strategy"]))
    others = [family for family in families if family != "auto"]
    looks = {"auto": ("#000000", "o"), **dict(zip(others, zip(_cycle(COLOURS[:-1]), _cycle(MARKERS))))}
    columns = min(3, len(sizes))
    with _style():
        figure = _Figure(figsize=(3.6 * columns, 0.9 + 2.8 * -(-len(sizes) // columns)), layout="constrained")
        panels = figure.subplots(-(-len(sizes) // columns), columns, squeeze=False).ravel()
        for axes, (rows, channels) in zip(panels, sizes):
            chosen = frame[(frame["rows"] == rows) & (frame["channels"] == channels)]
            _draw_strategies(axes, chosen, looks)
            axes.set_title(f"{rows} rows x {channels} channels")
            axes.set_xlabel("seconds")
            axes.set_ylabel("efficacy, %")
        for axes in panels[len(sizes) :]:
            axes.set_visible(False)
        handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), ncols=min(5, len(handles)), loc="outside lower center")
    return figure


def _family(strategy: str) -> str:
    """A strategy's name without options, but with the size of its groups: that one is a choice of method."""
    name, *options = strategy.split(",")
    return ",".join([name, options[0]]) if name == "stripe_groups" and options else name


def _draw_strategies(axes: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    limits = rows["time_limit"] if "time_limit" in rows else pd.Series(float("nan"), rows.index)
    means = rows.groupby([rows["strategy"], limits.fillna(0)], sort=False)[["seconds", "efficacy"]].mean().reset_index()
    for family, points in means.groupby(means["strategy"].map(_family), sort=False):
        colour, marker = looks[family]
        points = points.sort_values("seconds")
        width, size = (2.0, 4.0) if family == "auto" else (1.0, 4.5)
        axes.plot(points["seconds"], points["efficacy"], color=colour, marker=marker, ms=size, lw=width, label=family)
    if "bound" in rows and rows["bound"].notna().any():
        axes.axhline(rows["bound"].mean(), color="#666666", lw=1, ls="--", label="upper bound")
    serious = means.loc[~means["strategy"].str.startswith(("random", "identity")), "efficacy"]
    if len(serious) and (lowest := serious.quantile(0.1)) < (highest := serious.max()):
        axes.set_ylim(bottom=lowest - 0.4 * (highest - lowest))
    axes.set_xscale("log")
