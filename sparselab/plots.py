"""Figures from frames: pure functions, one style, colours that survive colour blindness and grey print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd
from matplotlib.axes import Axes

from sparselab.figures import COLOURS, MARKERS, Figure
from sparselab.figures import Figure as _Figure
from sparselab.figures import style as _style


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

    ``frame`` has ``strategy, rows, channels, seconds, efficacy`` and may have ``bound``; rows of several seeds are averaged.
    Names that differ only in their options (``"stripe_groups,8,0"``, ``"stripe_groups,8,100"``) are one line.
    """
    require_columns(frame, ("strategy", "rows", "channels", "seconds", "efficacy"), "search_pareto")
    sizes = frame[["rows", "channels"]].drop_duplicates().to_numpy().tolist()
    families = list(dict.fromkeys(_family(name) for name in frame["strategy"]))
    looks = dict(zip(families, zip(_cycle(COLOURS), _cycle(MARKERS))))
    columns = min(3, len(sizes))
    with _style():
        figure = _Figure(figsize=(3.6 * columns, 0.9 + 2.8 * -(-len(sizes) // columns)), layout="constrained")
        panels = figure.subplots(-(-len(sizes) // columns), columns, squeeze=False).ravel()
        for axes, (rows, channels) in zip(panels, sizes):
            chosen = frame[(frame["rows"] == rows) & (frame["channels"] == channels)]
            _draw_strategies(axes, chosen, looks)
            axes.set_title(f"{rows} rows x {channels} channels")
        for axes in panels[len(sizes) :]:
            axes.set_visible(False)
        figure.supxlabel("seconds", fontsize=9)
        figure.supylabel("efficacy, % of the way to the ideal", fontsize=9)
        handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), ncols=min(5, len(handles)), loc="outside lower center")
    return figure


def _family(strategy: str) -> str:
    """A strategy's name without options, but with the size of its groups: that one is a choice of method."""
    name, *options = strategy.split(",")
    return ",".join([name, options[0]]) if name == "stripe_groups" and options else name


def _draw_strategies(axes: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    means = rows.groupby("strategy", sort=False)[["seconds", "efficacy"]].mean()
    for family, points in means.groupby(means.index.map(_family), sort=False):
        colour, marker = looks[family]
        points = points.sort_values("seconds")
        strong = 2.2 if family == "auto" else 1.0
        axes.plot(
            points["seconds"],
            points["efficacy"],
            color=colour,
            marker=marker,
            ms=2 + 2 * strong,
            lw=strong,
            label=family,
        )
    if "bound" in rows and rows["bound"].notna().any():
        axes.axhline(rows["bound"].mean(), color="#666666", lw=1, ls="--", label="upper bound")
    axes.set_xscale("log")
