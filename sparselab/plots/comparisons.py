"""The trials of a sweep compared: accuracy, cost, and how a quantity moved over the steps."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pandas as pd
from matplotlib.ticker import MaxNLocator

from sparselab.metrics.metric import Quantity
from sparselab.plots import columns
from sparselab.plots.columns import finite_rows, headline, require_columns
from sparselab.plots.style import COLOURS, Figure, looks, style

DENSE, FINETUNED = "dense", "finetuned"
"""Phases of a trial that a sweep's columns begin with: the first, and the last."""


def accuracy_bars(frame: pd.DataFrame, value: str | None = None, *, by: Sequence[str] | None = None) -> Figure:
    """Mean of ``value`` over the seeds for every way to prune, with its 95% confidence interval.

    The dense networks are drawn too. ``frame`` is a sweep's, with ``value`` (default: its headline,
    after fine-tuning) and ``seed``; ``by`` are the inputs that tell bars apart (default: those that
    vary). Intervals are Student's t over the seeds (over all trials of a bar, where ``by`` tells
    fewer apart); with one seed there is none. The same metric of the dense networks, where it is
    there, is drawn as a line. Trials without a value (failed ones) are left out. Raises
    ``ValueError`` for columns that are not there, and where nothing says what ``value`` is to be.
    """
    value = _value(frame, value, "accuracy_bars")
    require_columns(frame, (value, "seed"), "accuracy_bars")
    by = _varying(frame, by, "accuracy_bars")
    drawn = finite_rows(frame, [value], "accuracy_bars")
    labels = _labels(drawn, by)
    groups = drawn.groupby(labels, sort=False)[value]
    means, halves, count = groups.mean(), groups.apply(_confidence), int(groups.size().max())
    what = "seeds" if drawn.groupby(labels)["seed"].nunique().max() == count else "trials"
    dense = _of_dense(drawn, value)
    heights = range(len(means))
    with style():
        figure = Figure(figsize=(7.0, 1.3 + 0.32 * len(means)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(heights, means, color=COLOURS[0], height=0.62)
        axes.errorbar(means, heights, xerr=halves, fmt="none", ecolor="#333333", capsize=3, lw=1.2)
        if len(dense):
            axes.axvline(dense.mean(), color=COLOURS[1], ls="--", lw=1.4, label=f"dense, {dense.mean():.1f}")
            figure.legend(loc="outside lower center")
        axes.set_yticks(heights, list(means.index))
        axes.set_ylim(len(means) - 0.4, -0.6)
        left, right = _room(means - halves.fillna(0), means + halves.fillna(0), dense)
        axes.set_xlim(left, right)
        begins = f"\n(the axis begins at {left:.4g})" if left else ""
        over = f"mean and 95% interval over {count} {what}" if count > 1 else "one seed, no interval"
        missing = len(frame) - len(drawn)
        axes.set_xlabel(over + (f"; {missing} trials without a value left out" if missing else "") + begins)
        axes.set_title(_directed(columns.quantity(frame, value)))
    return figure


def pareto(
    frame: pd.DataFrame, cost: str = "seconds_total", value: str | None = None, *, by: Sequence[str] | None = None
) -> Figure:
    """``value`` against ``cost`` of every way to prune, means over the seeds, and the front that none of them beats.

    ``frame`` is a sweep's, ``value`` its headline after fine-tuning unless you name another. Less
    ``cost`` is better, and more ``value``, unless the sweep says that less of it is
    (``attrs["quantities"]``); ``by`` as in ``accuracy_bars``.
    """
    value = _value(frame, value, "pareto")
    require_columns(frame, (cost, value), "pareto")
    by = _varying(frame, by, "pareto")
    drawn = finite_rows(frame, [cost, value], "pareto")
    means = drawn.groupby(_labels(drawn, by), sort=False)[[cost, value]].mean()
    told = columns.quantity(frame, value)
    front = _front(means, cost, value, less=told.higher_is_better is False)
    across = columns.quantity(frame, cost).label
    with style():
        figure = Figure(figsize=(7.0, 3.9 + _legend_inches(len(means) + 1)), layout="constrained")
        axes = figure.add_subplot()
        if len(front) > 1:
            axes.step(front[cost], front[value], where="post", color="#999999", lw=1.2, label="front")
        for (label, row), (colour, marker) in zip(means.iterrows(), looks()):
            axes.plot(row[cost], row[value], marker, color=colour, ms=6.5, label=str(label), ls="none")
        axes.set_xlabel(across)
        axes.set_ylabel(_directed(told))
        axes.set_title(f"{told.label} against {across}")
        figure.legend(ncols=min(2, len(means) + 1), loc="outside lower center", fontsize=8)
    return figure


def _front(means: pd.DataFrame, cost: str, value: str, *, less: bool) -> pd.DataFrame:
    """The rows that no other beats in both, from the cheapest on; of ``value`` more is better unless ``less`` is."""
    gain = -means[value] if less else means[value]
    order = means.assign(gain=gain).sort_values([cost, "gain"], ascending=[True, False])
    return order[order["gain"] > order["gain"].cummax().shift(fill_value=float("-inf"))]


def recompute_curves(
    history: pd.DataFrame, quantity: str | None = None, *, tracker: str | None = None, by: Sequence[str] | None = None
) -> Figure:
    """A ``quantity`` over the steps of fine-tuning, with one line for every way to prune.

    A band goes from the lowest to the highest seed. ``history`` is what ``sl.history`` makes:
    ``step, tracker, quantity, value`` and the inputs; ``quantity`` is its headline unless you name
    another. Quantities of layers are averaged. ``by`` as in ``accuracy_bars``; ``tracker`` where
    several follow a quantity of that name.
    """
    require_columns(history, ("step", "tracker", "quantity", "value"), "recompute_curves")
    if quantity is None:
        quantity = headline(history, list(history["quantity"].astype(str).unique()), "recompute_curves", "quantity")
    by = _varying(history, by, "recompute_curves")
    chosen = history["quantity"].astype(str) == quantity
    if tracker is not None:
        chosen &= history["tracker"].astype(str) == tracker
    if not chosen.any():
        there = sorted(set(zip(history["tracker"].astype(str), history["quantity"].astype(str))))
        raise ValueError(f"recompute_curves: no {quantity!r} in the history; it has {there}")
    drawn = finite_rows(history[chosen], ["step", "value"], "recompute_curves")
    labels, told = _labels(drawn, by), columns.quantity(history, quantity)
    runs = drawn.groupby([labels, "key" if "key" in drawn else labels, "step"], sort=False)["value"].mean()
    with style():
        figure = Figure(figsize=(7.0, 3.8 + _legend_inches(labels.nunique())), layout="constrained")
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        for label, (colour, marker) in zip(dict.fromkeys(labels), looks()):
            steps = runs.loc[label].groupby("step").agg(["mean", "min", "max"]).sort_index()
            axes.plot(steps.index, steps["mean"], color=colour, marker=marker, ms=3.5, lw=1.4, label=str(label))
            axes.fill_between(steps.index, steps["min"], steps["max"], color=colour, alpha=0.15, lw=0)
        axes.set_xlabel("step of fine-tuning")
        axes.set_ylabel(_directed(told))
        axes.set_title(f"{told.label} while masks are kept or recomputed")
        figure.legend(ncols=min(2, labels.nunique()), loc="outside lower center", fontsize=8)
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


def _room(lowest: pd.Series[float], highest: pd.Series[float], more: pd.Series[float]) -> tuple[float, float]:
    """Limits that show the differences: bars of accuracies need not begin at 0, where nothing is to be seen."""
    extra = [] if more.empty else [float(more.min()), float(more.max())]
    low, high = min([float(lowest.min()), *extra]), max([float(highest.max()), *extra])
    margin = max(0.25 * (high - low), 1e-3 * abs(high), 1e-9)
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _legend_inches(entries: int) -> float:
    """The height of a legend in two columns, which a figure grows by so that its axes do not shrink."""
    return 0.2 * -(-entries // 2)


def _value(frame: pd.DataFrame, value: str | None, figure: str) -> str:
    """The column that a figure of a sweep draws: ``value``, otherwise the headline.

    The headline is taken after fine-tuning where there was any.
    """
    if value is not None:
        return value
    said = [each["name"] for each in frame.attrs.get("quantities", ())]
    names = [str(name) for name in frame if name in said or str(name).startswith(f"{FINETUNED}_")]
    return headline(frame, [name for name in names if frame[name].notna().any()] or names, figure, "value")


def _of_dense(drawn: pd.DataFrame, value: str) -> pd.Series[float]:
    """The metric of the column ``value`` as the dense networks had it; empty where it is not there."""
    column = f"{DENSE}_{value.partition('_')[2]}"
    return drawn[column].dropna() if column in drawn else pd.Series(dtype="float64")


def _directed(told: Quantity) -> str:
    """A label that says so where less is better, for most figures are read the other way."""
    return f"{told.label}, less is better" if told.higher_is_better is False else told.label
