"""Figure 4: how sparse a layer must be, without structure, before some order makes it 2:4 without losing a weight."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparselab.core.layers import layer_weights
from sparselab.core.patterns import Pattern
from sparselab.core.weight_matrix import to_matrix
from sparselab.permutation import search_permutation, warm_up
from sparselab.reports import magnitude_report
from sparselab.reproduce import drawing
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.reproduce.sources import MEASURED
from sparselab.reproduce.trials import run_trials
from sparselab.sweeps.trial import Trial
from sparselab.tasks import efficientnet_lite0

Matrix = NDArray[np.float32]

STRATEGIES = ("identity", "channel_swap,0", "channel_swap,100", "stripe_groups,8,0", "stripe_groups,8,100", "auto")
QUICK_STRATEGIES = ("identity", "channel_swap,0", "stripe_groups,8,0", "auto")
QUICK_SCORES = 30_000
"""The largest layer of the quick form, in weights."""


def run(settings: Settings) -> Section:
    """The table of least sparsities and the figure of the layers that succeed."""
    layers = [name for name, matrix in magnitudes().items() if settings.full or matrix.size <= QUICK_SCORES]
    strategies = STRATEGIES if settings.full else QUICK_STRATEGIES
    for strategy in strategies:
        warm_up(strategy)
    trials = [{"layer": layer, "strategy": strategy} for layer in layers for strategy in strategies]
    found = run_trials(trial, settings, trials=trials)
    table = found[["layer", "rows", "channels", "strategy", "least_sparsity", "no_order_below", "seconds"]]
    return Section(
        "Figure 4: unstructured sparsity that becomes 2:4 for nothing",
        _text(table, settings.full),
        tables={"figure4": table.assign(source=MEASURED)},
        figures={"figure4": drawing.layers_succeeding(table)},
        trial_seconds=float(found["seconds_total"].sum()),
    )


def trial(trial: Trial) -> dict[str, Any]:
    """The least sparsity of one layer by one strategy, and the least that any order would need."""
    matrix = magnitudes()[trial.layer]
    least, seconds = least_sparsity(matrix, trial.strategy)
    return {
        "rows": len(matrix),
        "channels": matrix.shape[1],
        "least_sparsity": least,
        "no_order_below": no_order_below(matrix),
        "seconds": seconds,
    }


@functools.lru_cache(maxsize=1)
def magnitudes() -> dict[str, Matrix]:
    """Every layer of EfficientNet-Lite0 that can be 2:4, as the magnitudes of its weight matrix."""
    model = efficientnet_lite0()
    report = magnitude_report(model, "2:4").set_index("layer")
    return {
        layer.name: to_matrix(layer.weight.detach().abs(), layer.channel_dim).numpy()
        for layer in layer_weights(model)
        if report.loc[layer.name, "eligible"]
    }


def least_sparsity(matrix: Matrix, strategy: str, pattern: str = "2:4") -> tuple[int, float]:
    """The least sparsity at which ``strategy`` finds a lossless order; and the seconds that took.

    It is an integer percent of the smallest entries, which are set to zero. By bisection, which
    takes it that what succeeds at one sparsity succeeds at a higher one; for a heuristic strategy
    that need not be so at every percent. 100 where nothing less will do.
    """
    low, high, seconds = no_order_below(matrix, pattern), 100, 0.0
    while low < high:
        middle = (low + high) // 2
        scores = without_smallest(matrix, middle)
        result = search_permutation(scores, pattern, strategy=strategy)
        seconds += result.seconds
        if is_lossless(scores[:, result.order], pattern):
            high = middle
        else:
            low = middle + 1
    return low, seconds


def no_order_below(matrix: Matrix, pattern: str = "2:4") -> int:
    """The least integer percent at which no row has more entries than an N:M mask keeps of it.

    This is necessary for any order.
    """
    n, m = Pattern.parse(pattern).require_nm("a lossless order")
    most = matrix.shape[1] // m * n
    fits = (int((without_smallest(matrix, percent) > 0).sum(1).max()) <= most for percent in range(101))
    return next(percent for percent, fit in enumerate(fits) if fit)


def without_smallest(matrix: Matrix, percent: int) -> Matrix:
    """``matrix``, non-negative, with that share of its smallest entries, of all rows together, set to zero."""
    count = round(matrix.size * percent / 100)
    flat = matrix.ravel().copy()
    flat[np.argsort(flat, kind="stable")[:count]] = 0
    return flat.reshape(matrix.shape)


def is_lossless(scores: Matrix, pattern: str = "2:4") -> bool:
    """Whether an N:M mask keeps every entry of ``scores`` that is not zero."""
    n, m = Pattern.parse(pattern).require_nm("a lossless order")
    return bool(((scores > 0).reshape(len(scores), -1, m).sum(2) <= n).all())


def _text(table: pd.DataFrame, full: bool) -> str:
    by_strategy = table.groupby("strategy", sort=False)["least_sparsity"].agg(["median", "min", "max"])
    seconds = table.groupby("strategy", sort=False)["seconds"].sum()
    shown = by_strategy.assign(seconds=seconds).reset_index()
    layers = table["layer"].nunique()
    short = (
        ""
        if full
        else f" This is the quick form: the {layers} smaller layers (up to {QUICK_SCORES} weights) and four strategies."
    )
    best = table.groupby("layer")[["least_sparsity", "no_order_below"]].min()
    given = table[table["strategy"] == "identity"].set_index("layer")["least_sparsity"]
    wins = given - best["least_sparsity"]
    reached = int((best["least_sparsity"] == best["no_order_below"]).sum())
    return f"""
**The paper** asks for each layer of real networks how much unstructured sparsity it needs before a permutation can turn it into 2:4
without losing a weight. **Here** the same for the {layers} layers of EfficientNet-Lite0 that can be 2:4: the smallest magnitudes of a layer
are set to zero, at integer percentages, by bisection; a strategy succeeds if a 2:4 mask then keeps all that is left.{short} The
dashed curve is what no order can get below, for a row with more than half its weights does not fit. Everything was measured here;
the paper's curves are not at hand.

![layers that succeed against sparsity](figure4.png)

{markdown_table(shown, {"median": ".0f", "min": ".0f", "max": ".0f", "seconds": ".1f"})}

**Same or different**: the best order needs {wins.median():.0f} percentage points less sparsity than the order given, in the median
({wins.min():.0f} to {wins.max():.0f}), and in {reached} of {layers} layers as little as any order could. Searches maximise the magnitude kept, not
the number of weights that fit.
"""
