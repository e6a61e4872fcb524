"""What search strategies find, and by when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator

from sparselab.plots.columns import finite_rows, require_columns
from sparselab.plots.style import COLOURS, MARKERS, Figure, cycle, looks, plain_numbers, style


def search_pareto(frame: pd.DataFrame) -> Figure:
    """Quality against time of every strategy: one panel per matrix size.

    The upper bound is a line. ``frame`` has ``strategy, rows, channels, seconds, efficacy`` and may
    have ``bound`` and ``time_limit``; rows of several seeds are averaged. Names that differ only in
    their options (``"stripe_groups,8,0"``, ``"stripe_groups,8,100"``), or in the time limit, are
    one line; what had no limit, where the same strategy had one too, is a star. Controls far below (``random``) set no axis limits.
    """
    require_columns(frame, ("strategy", "rows", "channels", "seconds", "efficacy"), "search_pareto")
    frame = finite_rows(frame, ["seconds", "efficacy"], "search_pareto")
    sizes = frame[["rows", "channels"]].drop_duplicates().to_numpy().tolist()
    families = list(dict.fromkeys(_family(name) for name in frame["strategy"]))
    look_of = _strategy_looks(families)
    columns = min(3, len(sizes))
    with style():
        figure = Figure(figsize=(3.6 * columns, 0.9 + 2.8 * -(-len(sizes) // columns)), layout="constrained")
        panels = figure.subplots(-(-len(sizes) // columns), columns, squeeze=False).ravel()
        for axes, (rows, channels) in zip(panels, sizes):
            chosen = frame[(frame["rows"] == rows) & (frame["channels"] == channels)]
            _draw_strategies(axes, chosen, look_of)
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


def _strategy_looks(families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each family is drawn: ``auto`` black and thick, the others in the palette, hollow when it is used again."""
    others = [family for family in families if family != "auto"]
    palette = COLOURS[:-1]
    looks: dict[str, dict[str, Any]] = {"auto": {"color": "#000000", "marker": "o", "lw": 2.0, "ms": 4.0}}
    for number, (family, colour, marker) in enumerate(zip(others, cycle(palette), cycle(MARKERS))):
        looks[family] = {"color": colour, "marker": marker, "lw": 1.0, "ms": 4.5}
        if number >= len(palette):
            looks[family] |= {"markerfacecolor": "white"}
    return looks


def _ticks_of_seconds(low: float, high: float) -> Locator:
    """Few enough marks to be told apart, and two at least.

    Matplotlib's own mark a logarithmic axis with too few or too many.
    """
    if high < 5 * low:
        return MaxNLocator(4)
    return LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,))


def _draw_strategies(axes: Axes, rows: pd.DataFrame, look_of: dict[str, dict[str, Any]]) -> None:
    limits = rows["time_limit"] if "time_limit" in rows else pd.Series(float("nan"), rows.index)
    limits = limits.fillna(0).rename("time_limit")
    means = rows.groupby([rows["strategy"], limits], sort=False)[["seconds", "efficacy"]].mean().reset_index()
    for family, points in means.groupby(means["strategy"].map(_family), sort=False):
        points = points.sort_values("seconds")
        limited = points["time_limit"] > 0
        if limited.any() and not limited.all():
            free = points[~limited]
            alone = look_of[family] | {"marker": "*", "ms": 11, "ls": "none", "markeredgecolor": "white"}
            axes.plot(free["seconds"], free["efficacy"], label=f"{family}, no limit", zorder=3, **alone)
            points = points[limited]
        axes.plot(points["seconds"], points["efficacy"], label=family, **look_of[family])
    if "bound" in rows and rows["bound"].notna().any():
        axes.axhline(rows["bound"].mean(), color="#666666", lw=1, ls="--", label="upper bound")
    serious = means.loc[~means["strategy"].str.startswith(("random", "identity")), "efficacy"]
    if len(serious) and (lowest := serious.quantile(0.1)) < (highest := serious.max()):
        axes.set_ylim(bottom=lowest - 0.4 * (highest - lowest))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(_ticks_of_seconds(*axes.get_xlim()))
    plain_numbers(axes.xaxis)


def search_traces(frame: pd.DataFrame) -> Figure:
    """What searches had found by when: the best so far over the seconds.

    There is one line per search and one colour per strategy. ``frame`` has
    ``strategy, seconds, efficacy``, one row per improvement, and may have ``seed`` (or any ``key``)
    to tell the searches of one strategy apart.
    """
    require_columns(frame, ("strategy", "seconds", "efficacy"), "search_traces")
    drawn = finite_rows(frame, ["seconds", "efficacy"], "search_traces")
    searches = [name for name in ("key", "seed") if name in drawn] or ["strategy"]
    latest = drawn["seconds"].max()
    with style():
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for (strategy, rows), (colour, _) in zip(drawn.groupby("strategy", sort=False, observed=True), looks()):
            for number, (_, search) in enumerate(rows.groupby(searches, sort=False, observed=True)):
                path = search.sort_values("seconds")
                seconds, best = [*path["seconds"], latest], [*path["efficacy"].cummax(), path["efficacy"].max()]
                label = str(strategy) if number == 0 else None
                axes.step(seconds, best, where="post", color=colour, lw=1.3, alpha=0.85, label=label)
        if latest > 0:
            axes.set_xscale("symlog", linthresh=_decade_of(drawn.loc[drawn["seconds"] > 0, "seconds"].min()))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds")
        axes.set_ylabel("efficacy, % of the way to the ideal")
        axes.set_title("What each search had found by when")
        figure.legend(ncols=min(3, drawn["strategy"].nunique()), loc="outside lower center")
    return figure


def _decade_of(seconds: float) -> float:
    """The power of ten from ``seconds`` on, where an axis becomes logarithmic: below it there is no mark but 0."""
    return float(10.0 ** math.ceil(math.log10(max(seconds, 1e-4))))
