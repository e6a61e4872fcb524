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
LIMITS = (0.03, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
STRATEGIES = (
    "channel_swap,0",
    "channel_swap,100",
    "stripe_groups,8,0",
    "stripe_groups,8,100",
    "stripe_groups,12,0",
    "random,1000",
    "assignment",
    "assignment,snake",
    "anneal",
    "annealed_assignment",
    "exhaustive",
    "optimal",
)
MOST_CHANNELS = {"exhaustive": 16, "optimal": 64}
"""What a strategy that proves its order takes; the others take any number."""
UNTIL_CONVERGED = ("channel_swap", "stripe_groups")
PATIENCE = 10.0
"""Seconds after which a strategy that would go on for minutes is stopped."""
BOUNDED, QUICKLY_BOUNDED = 512, 256
"""Channels up to which there is an upper bound better than the row-wise ideal, in a minute and in seconds."""


def run(settings: Settings) -> Section:
    """The figure of quality against time."""
    sizes, bounded = (SIZES, BOUNDED) if settings.full else (QUICK_SIZES, QUICKLY_BOUNDED)
    points = quality_against_time(sizes, bounded=bounded, progress=settings.progress)
    return Section(
        title="Searching a permutation: quality against time",
        text=_TEXT,
        tables={"search_pareto": points},
        figures={"search_pareto": plots.search_pareto(points)},
    )


def quality_against_time(
    sizes: Sequence[tuple[int, int]], *, bounded: int = QUICKLY_BOUNDED, progress: bool = False
) -> pd.DataFrame:
    """``strategy, time_limit, rows, channels, seconds, efficacy, seed, bound``.

    ``bound`` is an efficacy that no order exceeds, NaN above ``bounded`` channels.
    """
    for strategy in (*STRATEGIES, "auto"):
        warm_up(strategy)
    runs = [(size, *run) for size in sizes for run in _runs(size[1])]
    bounds: dict[tuple[int, int], float] = {}
    points = []
    for size, strategy, limit in tqdm(runs, "quality against time", disable=not progress, leave=False):
        scores = authors_matrix(*size)
        if size not in bounds:
            proof = search_permutation(scores, strategy="identity", bound=size[1] <= bounded)
            bounds[size] = float("nan") if proof.bound_efficacy is None else proof.bound_efficacy
        result = search_permutation(scores, strategy=strategy, time_limit=limit)
        points.append((strategy, limit, *size, result.seconds, result.efficacy, 1, bounds[size]))
    return pd.DataFrame(
        points, columns=["strategy", "time_limit", *["rows", "channels", "seconds", "efficacy", "seed", "bound"]]
    )


def _runs(channels: int) -> Iterator[tuple[str, float | None]]:
    for strategy in STRATEGIES:
        if channels <= MOST_CHANNELS.get(strategy, channels):
            yield strategy, PATIENCE if strategy.startswith(UNTIL_CONVERGED) else None
    yield "auto", None
    if channels > 16:
        shortest, longest = 0.9e-7 * channels**2, 1.0 if channels <= 64 else channels / 64
        yield from (("auto", limit) for limit in LIMITS if shortest <= limit <= longest)


_TEXT = """
Random matrices (numpy seed 1) of several sizes, every strategy to its end, or for 10 s, but for the two that refuse as many
channels (`exhaustive` above 16, `optimal` above 64); `auto` also with limits from 0.03 s up. The dashed line is an upper bound
that no order can exceed, where there is one (up to 256 channels, in the full run 512). Random orders are below the picture where
they are not in it.

![efficacy against seconds](search_pareto.png)
"""
