"""What each search strategy finds and how long it takes: the authors' listing, and quality against time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sparselab import plots
from sparselab.permutation import search_permutation
from sparselab.reproduce.section import Section, Settings, markdown_table

AUTHORS = {
    "channel_swap,0": (2913.352, 32.1, 0.214),
    "channel_swap,100": (2914.174, 32.5, 2.249),
    "channel_swap,1000": (2920.694, 36.0, 20.248),
    "stripe_groups,8,0": (2919.757, 35.5, 0.013),
    "stripe_groups,8,100": (2919.758, 35.5, 0.152),
    "stripe_groups,8,1000": (2919.935, 35.6, 1.387),
    "stripe_groups,12,0": (2921.947, 36.6, 0.860),
}
"""Retained magnitude, efficacy and seconds on a V100 as the paper's authors list them for 128 rows x 64 channels, seed 1."""

SIZES = ((32, 16), (128, 64), (128, 128), (256, 256), (512, 512), (1024, 1024), (2048, 2048))
QUICK_SIZES = SIZES[:4]
LIMITS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
STRATEGIES = {
    "channel_swap,0": 2048,
    "channel_swap,100": 1024,
    "stripe_groups,8,0": 1024,
    "stripe_groups,8,100": 512,
    "stripe_groups,12,0": 128,
    "random,1000": 1024,
    "assignment": 2048,
    "assignment,snake": 2048,
    "anneal": 512,
    "annealed_assignment": 2048,
    "optimal": 64,
}
"""The strategies compared, and the most channels that each is run at."""


def authors_matrix(rows: int, channels: int, seed: int = 1) -> NDArray[np.float64]:
    """The matrix that the paper's authors use: ``numpy.random.seed(seed); numpy.random.rand(rows, channels)``."""
    return np.random.RandomState(seed).rand(rows, channels)


def run(settings: Settings) -> Section:
    """The listing beside the authors' and the figure of quality against time."""
    warm_up()
    listed = listing(progress=settings.progress)
    points = quality_against_time(SIZES if settings.full else QUICK_SIZES, progress=settings.progress)
    return Section(
        title="Searching a permutation: strategies side by side",
        text=_text(listed),
        tables={"search_listing": listed, "search_pareto": points},
        figures={"search_pareto": plots.search_pareto(points)},
    )


def warm_up() -> None:
    """Compile everything, so that no strategy's seconds include it."""
    for strategy in (*STRATEGIES, "exhaustive", "auto"):
        search_permutation(authors_matrix(8, 16 if strategy in ("exhaustive", "optimal") else 32), strategy=strategy)


def listing(*, progress: bool = False) -> pd.DataFrame:
    """128 rows x 64 channels, seed 1: each strategy's result beside the authors', where they list one."""
    scores = authors_matrix(128, 64)
    rows = []
    for strategy in tqdm(
        [*AUTHORS, "assignment", "anneal", "auto", "optimal"], "listing", disable=not progress, leave=False
    ):
        result = search_permutation(scores, strategy=strategy)
        theirs = AUTHORS.get(strategy, (float("nan"),) * 3)
        rows.append((strategy, result.retained, result.efficacy, result.seconds, *theirs))
    columns = ["strategy", "retained", "efficacy", "seconds", "authors retained", "authors efficacy", "authors seconds"]
    return pd.DataFrame(rows, columns=columns)


def quality_against_time(sizes: Sequence[tuple[int, int]], *, progress: bool = False) -> pd.DataFrame:
    """``strategy, time_limit, rows, channels, seconds, efficacy, seed, bound``; ``bound`` is an efficacy, NaN above 128 channels."""
    runs = [(size, *run) for size in sizes for run in _runs(size[1])]
    bounds: dict[tuple[int, int], float] = {}
    points = []
    for size, strategy, limit in tqdm(runs, "quality against time", disable=not progress, leave=False):
        scores = authors_matrix(*size)
        if size not in bounds:
            proof = search_permutation(scores, strategy="identity", bound=size[1] <= 128)
            bounds[size] = float("nan") if proof.bound_efficacy is None else proof.bound_efficacy
        result = search_permutation(scores, strategy=strategy, time_limit=limit)
        points.append((strategy, limit, *size, result.seconds, result.efficacy, 1, bounds[size]))
    return pd.DataFrame(
        points, columns=["strategy", "time_limit", *["rows", "channels", "seconds", "efficacy", "seed", "bound"]]
    )


def _runs(channels: int) -> Iterator[tuple[str, float | None]]:
    yield from ((strategy, None) for strategy, most in STRATEGIES.items() if channels <= most)
    yield "auto", None
    if channels > 16:
        yield from (("auto", limit) for limit in LIMITS if limit <= (1.0 if channels <= 64 else channels / 64))


def _text(listed: pd.DataFrame) -> str:
    formats = {
        **dict.fromkeys(("retained", "authors retained"), ".3f"),
        **dict.fromkeys(("efficacy", "authors efficacy"), ".2f"),
        **dict.fromkeys(("seconds", "authors seconds"), ".3g"),
    }
    return f"""
The authors of the permutation paper list results for one random matrix, 128 rows x 64 channels, numpy seed 1. The
left half of the table was measured here, on a CPU; the right half is theirs, quoted, on one V100. The greedy strategies find the
same orders; `optimal` is proven to be the best order there is.

{markdown_table(listed, formats)}

Quality against time for random matrices (seed 1) of several sizes. `auto` without a limit and with limits from 0.1 s up; the
dashed line is an upper bound that no order can exceed, by linear programming, where it takes seconds. Random orders are
below the picture where they are not in it.

![efficacy against seconds](search_pareto.png)
"""
