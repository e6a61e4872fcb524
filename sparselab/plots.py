"""Figures from frames: pure functions, one style, colours that survive colour blindness and grey print."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from sparselab.figures import COLOURS, MARKERS, Figure, style


def require_columns(frame: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Raise ``ValueError`` naming the columns that ``figure`` needs and ``frame`` lacks, or that there are no rows."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"{figure} needs the columns {missing}; the frame has {list(frame.columns)}")
    if frame.empty:
        raise ValueError(f"{figure}: the frame has no rows, so there is nothing to draw")


def _numbers(frame: pd.DataFrame, columns: Sequence[str], figure: str) -> pd.DataFrame:
    """The rows of ``frame`` that have a finite number in each of ``columns``; ``ValueError`` where there are none."""
    require_columns(frame, columns, figure)
    words = [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if words:
        raise ValueError(f"{figure}: {words} hold no numbers, and only numbers can be drawn")
    drawn: pd.DataFrame = frame.loc[np.isfinite(frame[list(columns)].to_numpy("float64", na_value=np.nan)).all(axis=1)]
    if drawn.empty:
        raise ValueError(
            f"{figure}: no row has a finite number in each of {list(columns)}, so there is nothing to draw"
        )
    return drawn


def loss_by_layer(frame: pd.DataFrame) -> Figure:
    """Magnitude lost by every layer, a series a pattern.

    ``frame`` has ``layer, pattern, lost_percent``; layers are drawn top to bottom in the order in which they come,
    NaN (not eligible) is left out. Raises ``ValueError`` when a column is missing or there is nothing to draw.
    """
    require_columns(frame, ("layer", "pattern", "lost_percent"), "loss_by_layer")
    drawn = _numbers(frame, ["lost_percent"], "loss_by_layer")
    layers = [layer for layer in dict.fromkeys(frame["layer"]) if (drawn["layer"] == layer).any()]
    height = {layer: position for position, layer in enumerate(layers)}
    with style():
        figure = Figure(figsize=(8.0, 1.4 + 0.19 * len(layers)), layout="constrained")
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
    frame = _numbers(frame, columns[1:], "efficacy_by_layer")
    heights = range(len(frame))
    with style():
        figure = Figure(figsize=(8.0, 1.4 + 0.19 * len(frame)), layout="constrained")
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
    frame = _numbers(frame, ["seconds", "efficacy"], "search_pareto")
    sizes = frame[["rows", "channels"]].drop_duplicates().to_numpy().tolist()
    families = list(dict.fromkeys(_family(name) for name in frame["strategy"]))
    looks = _strategy_looks(families)
    columns = min(3, len(sizes))
    with style():
        figure = Figure(figsize=(3.6 * columns, 0.9 + 2.8 * -(-len(sizes) // columns)), layout="constrained")
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


def _strategy_looks(families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each family is drawn: ``auto`` black and thick, the others in the palette, hollow when it is used again."""
    others = [family for family in families if family != "auto"]
    palette = COLOURS[:-1]
    looks: dict[str, dict[str, Any]] = {"auto": {"color": "#000000", "marker": "o", "lw": 2.0, "ms": 4.0}}
    for number, (family, colour, marker) in enumerate(zip(others, _cycle(palette), _cycle(MARKERS))):
        looks[family] = {"color": colour, "marker": marker, "lw": 1.0, "ms": 4.5}
        if number >= len(palette):
            looks[family] |= {"markerfacecolor": "white"}
    return looks


def _ticks_of_seconds(low: float, high: float) -> Locator:
    """Few enough to be told apart, and two at least: matplotlib's own marks a logarithmic axis with too few or too many."""
    if high < 5 * low:
        return MaxNLocator(4)
    return LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,))


def _draw_strategies(axes: Axes, rows: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    limits = rows["time_limit"] if "time_limit" in rows else pd.Series(float("nan"), rows.index)
    means = rows.groupby([rows["strategy"], limits.fillna(0)], sort=False)[["seconds", "efficacy"]].mean().reset_index()
    for family, points in means.groupby(means["strategy"].map(_family), sort=False):
        points = points.sort_values("seconds")
        axes.plot(points["seconds"], points["efficacy"], label=family, **looks[family])
    if "bound" in rows and rows["bound"].notna().any():
        axes.axhline(rows["bound"].mean(), color="#666666", lw=1, ls="--", label="upper bound")
    serious = means.loc[~means["strategy"].str.startswith(("random", "identity")), "efficacy"]
    if len(serious) and (lowest := serious.quantile(0.1)) < (highest := serious.max()):
        axes.set_ylim(bottom=lowest - 0.4 * (highest - lowest))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(_ticks_of_seconds(*axes.get_xlim()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def accuracy_bars(frame: pd.DataFrame, value: str = "finetuned_top1", *, by: Sequence[str] | None = None) -> Figure:
    """Mean of ``value`` over the seeds for every way to prune, with its 95% confidence interval, and the dense networks.

    ``frame`` is a sweep's, with ``value`` and ``seed``; ``by`` are the inputs that tell bars apart (default: those that
    vary). Intervals are Student's t over the seeds (over all trials of a bar, where ``by`` tells fewer apart); with one seed
    there is none. ``dense_top1``, where it is there, is drawn as
    a line. Trials without a value (failed ones) are left out.
    """
    require_columns(frame, (value, "seed"), "accuracy_bars")
    by = _varying(frame, by, "accuracy_bars")
    drawn = _numbers(frame, [value], "accuracy_bars")
    labels = _labels(drawn, by)
    groups = drawn.groupby(labels, sort=False)[value]
    means, halves, count = groups.mean(), groups.apply(_confidence), int(groups.size().max())
    what = "seeds" if drawn.groupby(labels)["seed"].nunique().max() == count else "trials"
    heights = range(len(means))
    with style():
        figure = Figure(figsize=(7.0, 1.3 + 0.32 * len(means)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(heights, means, color=COLOURS[0], height=0.62)
        axes.errorbar(means, heights, xerr=halves, fmt="none", ecolor="#333333", capsize=3, lw=1.2)
        if value.endswith("_top1") and "dense_top1" in drawn and drawn["dense_top1"].notna().any():
            dense = drawn["dense_top1"].mean()
            axes.axvline(dense, color=COLOURS[1], ls="--", lw=1.4, label=f"dense, {dense:.1f}")
            figure.legend(loc="outside lower center")
        axes.set_yticks(heights, list(means.index))
        axes.set_ylim(len(means) - 0.4, -0.6)
        left, right = _room(means - halves.fillna(0), means + halves.fillna(0), drawn.get("dense_top1"))
        axes.set_xlim(left, right)
        begins = f"\n(the axis begins at {left:.4g})" if left else ""
        axes.set_xlabel(
            (f"mean and 95% interval over {count} {what}" if count > 1 else "one seed, no interval") + begins
        )
        axes.set_title(_words(value))
    return figure


def pareto(
    frame: pd.DataFrame, cost: str = "seconds_total", value: str = "finetuned_top1", *, by: Sequence[str] | None = None
) -> Figure:
    """``value`` against ``cost`` of every way to prune, means over the seeds, and the front that none of them beats.

    ``frame`` is a sweep's. More ``value`` and less ``cost`` is better; ``by`` as in ``accuracy_bars``.
    """
    require_columns(frame, (cost, value), "pareto")
    by = _varying(frame, by, "pareto")
    drawn = _numbers(frame, [cost, value], "pareto")
    means = drawn.groupby(_labels(drawn, by), sort=False)[[cost, value]].mean()
    front = means.sort_values([cost, value], ascending=[True, False])
    front = front[front[value] > front[value].cummax().shift(fill_value=float("-inf"))]
    with style():
        figure = Figure(figsize=(7.0, 3.9 + _legend_inches(len(means) + 1)), layout="constrained")
        axes = figure.add_subplot()
        if len(front) > 1:
            axes.step(front[cost], front[value], where="post", color="#999999", lw=1.2, label="front")
        for (label, row), (colour, marker) in zip(means.iterrows(), _looks()):
            axes.plot(row[cost], row[value], marker, color=colour, ms=6.5, label=str(label), ls="none")
        axes.set_xlabel(_words(cost))
        axes.set_ylabel(_words(value))
        axes.set_title(f"{_words(value)} against {_words(cost)}")
        figure.legend(ncols=min(2, len(means) + 1), loc="outside lower center", fontsize=8)
    return figure


def recompute_curves(
    history: pd.DataFrame, quantity: str = "top1", *, tracker: str | None = None, by: Sequence[str] | None = None
) -> Figure:
    """A ``quantity`` over the steps of fine-tuning, a line for every way to prune, a band from the lowest to the highest seed.

    ``history`` is what ``sl.history`` makes: ``step, tracker, quantity, value`` and the inputs. Quantities of layers are
    averaged. ``by`` as in ``accuracy_bars``; ``tracker`` where several follow a quantity of that name.
    """
    require_columns(history, ("step", "tracker", "quantity", "value"), "recompute_curves")
    by = _varying(history, by, "recompute_curves")
    chosen = history["quantity"].astype(str) == quantity
    if tracker is not None:
        chosen &= history["tracker"].astype(str) == tracker
    if not chosen.any():
        there = sorted(set(zip(history["tracker"].astype(str), history["quantity"].astype(str))))
        raise ValueError(f"recompute_curves: no {quantity!r} in the history; it has {there}")
    drawn = _numbers(history[chosen], ["step", "value"], "recompute_curves")
    labels = _labels(drawn, by)
    runs = drawn.groupby([labels, "key" if "key" in drawn else labels, "step"], sort=False)["value"].mean()
    with style():
        figure = Figure(figsize=(7.0, 3.8 + _legend_inches(labels.nunique())), layout="constrained")
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        for label, (colour, marker) in zip(dict.fromkeys(labels), _looks()):
            steps = runs.loc[label].groupby("step").agg(["mean", "min", "max"]).sort_index()
            axes.plot(steps.index, steps["mean"], color=colour, marker=marker, ms=3.5, lw=1.4, label=str(label))
            axes.fill_between(steps.index, steps["min"], steps["max"], color=colour, alpha=0.15, lw=0)
        axes.set_xlabel("step of fine-tuning")
        axes.set_ylabel(_words(quantity))
        axes.set_title(f"{_words(quantity)} while masks are kept or recomputed")
        figure.legend(ncols=min(2, labels.nunique()), loc="outside lower center", fontsize=8)
    return figure


def search_traces(frame: pd.DataFrame) -> Figure:
    """What searches had found by when: the best so far over the seconds, a line a search, a colour a strategy.

    ``frame`` has ``strategy, seconds, efficacy``, a row an improvement, and may have ``seed`` (or any ``key``) to tell the
    searches of one strategy apart.
    """
    require_columns(frame, ("strategy", "seconds", "efficacy"), "search_traces")
    drawn = _numbers(frame, ["seconds", "efficacy"], "search_traces")
    searches = [name for name in ("key", "seed") if name in drawn] or ["strategy"]
    latest = drawn["seconds"].max()
    with style():
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for (strategy, rows), (colour, _) in zip(drawn.groupby("strategy", sort=False, observed=True), _looks()):
            for number, (_, search) in enumerate(rows.groupby(searches, sort=False, observed=True)):
                path = search.sort_values("seconds")
                seconds, best = [*path["seconds"], latest], [*path["efficacy"].cummax(), path["efficacy"].max()]
                label = str(strategy) if number == 0 else None
                axes.step(seconds, best, where="post", color=colour, lw=1.3, alpha=0.85, label=label)
        if latest > 0:
            positive = drawn.loc[drawn["seconds"] > 0, "seconds"].min()
            axes.set_xscale("symlog", linthresh=max(positive, 1e-4))
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds")
        axes.set_ylabel("efficacy, % of the way to the ideal")
        axes.set_title("What each search had found by when")
        figure.legend(ncols=min(3, drawn["strategy"].nunique()), loc="outside lower center")
    return figure


def _varying(frame: pd.DataFrame, by: Sequence[str] | None, figure: str) -> list[str]:
    """The inputs that tell trials apart, the seed aside: those given, else those of a sweep's frame that vary."""
    if by is not None:
        by = [by] if isinstance(by, str) else list(by)
        require_columns(frame, by, figure)
        return by
    inputs = [name for name in frame.attrs.get("inputs", ("pattern", "permutation", "schedule")) if name in frame]
    several = [name for name in ("task", *inputs) if name in frame and name not in ("seed", "threads")]
    return [name for name in several if frame[name].nunique(dropna=False) > 1]


def _labels(frame: pd.DataFrame, by: Sequence[str]) -> pd.Series[str]:
    """What each row is called in a legend; an input that was ``None`` says so."""
    if not by:
        return pd.Series("all trials", index=frame.index)
    texts = [frame[name].astype(object).where(frame[name].notna(), f"no {name}").astype(str) for name in by]
    return functools.reduce(lambda left, right: left + " · " + right, texts)


def _confidence(values: pd.Series[float]) -> float:
    """Half the width of the 95% interval of the mean."""
    from scipy import stats

    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _room(lowest: pd.Series[float], highest: pd.Series[float], more: pd.Series[float] | None) -> tuple[float, float]:
    """Limits that show the differences: bars of accuracies need not begin at 0, where nothing is to be seen."""
    extra = [] if more is None or more.isna().all() else [float(more.min()), float(more.max())]
    low, high = min([float(lowest.min()), *extra]), max([float(highest.max()), *extra])
    margin = max(0.25 * (high - low), 1e-3 * abs(high), 1e-9)
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _legend_inches(entries: int) -> float:
    """The height of a legend in two columns, which a figure grows by so that its axes do not shrink."""
    return 0.2 * -(-entries // 2)


def _looks() -> Iterator[tuple[str, str]]:
    """Colours with markers; once the colours are used up they come again with other markers."""
    for turn in itertools.count():
        for number, colour in enumerate(COLOURS):
            yield colour, MARKERS[(number + turn) % len(MARKERS)]


def _words(column: str) -> str:
    return (
        column.replace("_percent", " (%)").replace("_top1", " top-1 (%)").replace("top1", "top-1 (%)").replace("_", " ")
    )
