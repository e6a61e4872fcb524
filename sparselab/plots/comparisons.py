"""The trials of a sweep compared: accuracy, cost, and how a quantity moved over the steps."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pandas as pd
from matplotlib.ticker import MaxNLocator

from sparselab.plots.columns import finite_rows, require_columns
from sparselab.plots.style import COLOURS, Figure, looks, style


def accuracy_bars(frame: pd.DataFrame, value: str = "finetuned_top1", *, by: Sequence[str] | None = None) -> Figure:
    """Mean of ``value`` over the seeds for every way to prune, with its 95% confidence interval, and the dense networks.

    ``frame`` is a sweep's, with ``value`` and ``seed``; ``by`` are the inputs that tell bars apart (default: those that
    vary). Intervals are Student's t over the seeds (over all trials of a bar, where ``by`` tells fewer apart); with one seed
    there is none. ``dense_top1``, where it is there, is drawn as
    a line. Trials without a value (failed ones) are left out.
    """
    require_columns(frame, (value, "seed"), "accuracy_bars")
    by = _varying(frame, by, "accuracy_bars")
    drawn = finite_rows(frame, [value], "accuracy_bars")
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
    drawn = finite_rows(frame, [cost, value], "pareto")
    means = drawn.groupby(_labels(drawn, by), sort=False)[[cost, value]].mean()
    front = means.sort_values([cost, value], ascending=[True, False])
    front = front[front[value] > front[value].cummax().shift(fill_value=float("-inf"))]
    with style():
        figure = Figure(figsize=(7.0, 3.9 + _legend_inches(len(means) + 1)), layout="constrained")
        axes = figure.add_subplot()
        if len(front) > 1:
            axes.step(front[cost], front[value], where="post", color="#999999", lw=1.2, label="front")
        for (label, row), (colour, marker) in zip(means.iterrows(), looks()):
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
    drawn = finite_rows(history[chosen], ["step", "value"], "recompute_curves")
    labels = _labels(drawn, by)
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
        axes.set_ylabel(_words(quantity))
        axes.set_title(f"{_words(quantity)} while masks are kept or recomputed")
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


def _room(lowest: pd.Series[float], highest: pd.Series[float], more: pd.Series[float] | None) -> tuple[float, float]:
    """Limits that show the differences: bars of accuracies need not begin at 0, where nothing is to be seen."""
    extra = [] if more is None or more.isna().all() else [float(more.min()), float(more.max())]
    low, high = min([float(lowest.min()), *extra]), max([float(highest.max()), *extra])
    margin = max(0.25 * (high - low), 1e-3 * abs(high), 1e-9)
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _legend_inches(entries: int) -> float:
    """The height of a legend in two columns, which a figure grows by so that its axes do not shrink."""
    return 0.2 * -(-entries // 2)


def _words(column: str) -> str:
    return (
        column.replace("_percent", " (%)").replace("_top1", " top-1 (%)").replace("top1", "top-1 (%)").replace("_", " ")
    )
