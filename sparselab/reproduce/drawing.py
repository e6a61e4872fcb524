"""The figures of the paper's parts: pure functions from frames, in the project's style."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd

from sparselab.plots import require_columns
from sparselab.plots.style import COLOURS, MARKERS, Figure, looks, style


def layers_succeeding(frame: pd.DataFrame) -> Figure:
    """How many layers are 2:4 without a loss at each unstructured sparsity: one curve per strategy.

    The bound for any order is drawn too. ``frame`` has
    ``layer, strategy, least_sparsity, no_order_below`` (percent).
    """
    require_columns(frame, ("layer", "strategy", "least_sparsity", "no_order_below"), "layers_succeeding")
    percents = np.arange(int(frame["no_order_below"].min()) - 1, 101)
    with style():
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for number, (strategy, rows) in enumerate(frame.groupby("strategy", sort=False)):
            colour = "#000000" if strategy == "auto" else COLOURS[number % (len(COLOURS) - 1)]
            succeeding = (rows["least_sparsity"].to_numpy() <= percents[:, None]).sum(1)
            axes.step(percents, succeeding, where="post", color=colour, lw=1.6, label=str(strategy))
        bound = frame.drop_duplicates("layer")["no_order_below"].to_numpy()
        axes.step(
            percents,
            (bound <= percents[:, None]).sum(1),
            where="post",
            color="#666666",
            ls="--",
            lw=1,
            label="no order below",
        )
        axes.set_xlabel("unstructured sparsity of the layer, %")
        axes.set_ylabel(f"layers of {frame['layer'].nunique()} that a 2:4 mask then keeps whole")
        axes.set_title("When an order makes 2:4 free")
        axes.set_ylim(bottom=0)
        figure.legend(ncols=4, loc="outside lower center")
    return figure


def efficacy_against_accuracy(frame: pd.DataFrame) -> Figure:
    """Accuracy gained against efficacy, before and after fine-tuning.

    There is one line per network and pattern, of means over its seeds. ``frame`` has
    ``name, pattern, seed, step, efficacy, pruned_top1, finetuned_top1``; gains are over step 0 of
    the same seed.
    """
    needed = ("name", "pattern", "seed", "step", "efficacy", "pruned_top1", "finetuned_top1")
    require_columns(frame, needed, "efficacy_against_accuracy")
    with style():
        figure = Figure(figsize=(9.0, 4.0), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, value, title in zip(panels, needed[-2:], ("pruned, before fine-tuning", "after fine-tuning")):
            walks = frame.sort_values("step", kind="stable").groupby(["name", "pattern", "seed"], sort=False)[value]
            gained = frame.assign(gained=frame[value] - walks.transform("first"))
            for number, (series, rows) in enumerate(gained.groupby(["name", "pattern"], sort=False)):
                means = rows.groupby("step")[["efficacy", "gained"]].mean()
                colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
                axes.plot(rows["efficacy"], rows["gained"], marker, color=colour, ms=3, alpha=0.35)
                axes.plot(
                    means["efficacy"],
                    means["gained"],
                    color=colour,
                    marker=marker,
                    ms=5,
                    lw=1.6,
                    label=", ".join(map(str, series)),
                )
            axes.axhline(0, color="#666666", lw=0.8)
            axes.set_xlabel("efficacy of the order, %")
            axes.set_ylabel("top-1 gained over the default order, points")
            axes.set_title(title)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=3, loc="outside lower center")
    return figure


def efficacy_and_bound(frame: pd.DataFrame) -> Figure:
    """Mean efficacy of each strategy as bars: one panel per matrix size.

    The mean upper bound for any order is drawn too. ``frame`` has
    ``strategy, rows, channels, efficacy, upper_bound``.
    """
    require_columns(frame, ("strategy", "rows", "channels", "efficacy", "upper_bound"), "efficacy_and_bound")
    sizes = frame[["rows", "channels"]].drop_duplicates().to_numpy().tolist()
    strategies = list(dict.fromkeys(frame["strategy"]))
    with style():
        figure = Figure(figsize=(3.2 * len(sizes) + 1, 1.2 + 0.34 * len(strategies)), layout="constrained")
        for axes, (rows, channels) in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False).ravel(), sizes):
            chosen = frame[(frame["rows"] == rows) & (frame["channels"] == channels)]
            means = chosen.groupby("strategy", sort=False)["efficacy"].mean()
            axes.barh([strategies.index(name) for name in means.index], means, color=COLOURS[0], height=0.62)
            for name, mean in means.items():
                axes.text(
                    mean - 0.5,
                    strategies.index(str(name)),
                    f"{mean:.1f}",
                    ha="right",
                    va="center",
                    color="white",
                    fontsize=8,
                )
            bound = chosen["upper_bound"].mean()
            axes.axvline(bound, color=COLOURS[1], ls="--", lw=1.4)
            axes.text(bound, -0.75, f"{bound:.1f}", ha="center", color=COLOURS[1], fontsize=8)
            axes.set_title(f"{rows} rows x {channels} columns", pad=14)
            axes.set_xlabel("efficacy, %; dashed: no order above")
        figure.axes[0].set_yticks(range(len(strategies)), strategies)
        figure.axes[0].set_ylim(len(strategies) - 0.5, -0.5)
    return figure


def perplexity_by_calibration(frame: pd.DataFrame, caption: str) -> Figure:
    """Perplexity against the number of calibration windows: a line of means per pruner, a mark per seed.

    ``caption`` is the protocol, which stands below. ``frame`` has ``pruner, calibration, perplexity``.
    """
    require_columns(frame, ("pruner", "calibration", "perplexity"), "perplexity_by_calibration")
    sizes = sorted(frame["calibration"].unique())
    with style():
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for (pruner, rows), (colour, marker) in zip(frame.groupby("pruner", sort=False), looks(), strict=False):
            means = rows.groupby("calibration")["perplexity"].mean()
            axes.plot(rows["calibration"], rows["perplexity"], marker, color=colour, ms=4, alpha=0.35)
            axes.plot(means.index, means, color=colour, marker=marker, ms=5, lw=1.6, label=str(pruner))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_minor_formatter("{x:.0f}")
        axes.set_xlabel("windows of calibration")
        axes.set_ylabel("perplexity")
        axes.set_title("How much calibration a pruner needs, 2:4 as trained")
        axes.legend()
        figure.supxlabel(textwrap.fill(caption, 120), fontsize=7, color="#666666")
    return figure
