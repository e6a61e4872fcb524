"""What each search strategy finds by when, on random matrices from small to large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from tqdm.auto import tqdm

from sparselab import plots
from sparselab.permutation import search_permutation, warm_up
from sparselab.reproduce.random_matrices import authors_matrix
from sparselab.reproduce.section import Section, Settings

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


def run(settings: Settings) -> Section:
    """The figure of quality against time."""
    points = quality_against_time(SIZES if settings.full else QUICK_SIZES, progress=settings.progress)
    return Section(
        title="Searching a permutation: quality against time",
        text=_TEXT,
        tables={"search_pareto": points},
        figures={"search_pareto": plots.search_pareto(points)},
    )


def quality_against_time(sizes: Sequence[tuple[int, int]], *, progress: bool = False) -> pd.DataFrame:
    """``strategy, time_limit, rows, channels, seconds, efficacy, seed, bound``; ``bound`` is an efficacy, NaN above 128 channels."""
    for strategy in (*STRATEGIES, "exhaustive", "auto"):
        warm_up(strategy)
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


_TEXT = """
Random matrices (numpy seed 1) of several sizes, each strategy to its end; `auto` also with limits from 0.1 s up. The dashed line
is an upper bound that no order can exceed, by linear programming, where it takes seconds. Random orders are below the picture
where they are not in it.

![efficacy against seconds](search_pareto.png)
"""
