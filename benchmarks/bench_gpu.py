"""What the search reaches on a GPU: every strategy beside the CPU's and, where it is at hand, the reference tool's kernels.

Matrices are ``numpy.random.seed(1); numpy.random.rand(rows, channels)``; seconds are wall time after compilation. Set
``SPARSELAB_APEX`` to a checkout of Apex (tag 25.09) whose permutation search extension is built to have its strategies
timed too. Also writes results/bench_gpu_kernels.csv, each hot kernel beside the bound it runs against (see
docs/performance.md), and results/bench_gpu.png.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import sparselab as sl
from benchmarks.timing import seconds
from sparselab.measures import efficacy
from sparselab.ops import cuda
from sparselab.permutation import SearchProblem
from sparselab.reproduce.search import authors_matrix

PAPER = tuple((rows, channels) for channels in (32, 64, 128, 256) for rows in (channels, 2 * channels))
SQUARE = ((512, 512), (1024, 1024), (2048, 2048))
TRANSFORMER = ((4096, 4096), (11008, 4096))
STRATEGIES = {"channel_swap,0": 4096, "stripe_groups,8,0": 1024, "stripe_groups,12,0": 256, "annealed_assignment": 2048}
"""The strategies compared, and the most channels that each is run at."""
LIMITS = (0.3, 0.5, 1.0, 5.0)
LONGEST_ON_A_CPU = 2048  # channels above which a CPU is only given auto's longest limit
REFERENCE = (  # stripe_group_size, escape_attempts, the most channels
    (8, 100, 2048),
    (8, 1000, 2048),
    (12, 1000, 256),
)
REPEATS = 20
COLUMNS = ["rows", "channels", "backend", "strategy", "time_limit", "efficacy", "seconds", "machine"]
Row = tuple[int, int, str, str, float | None, float, float, str]


def run() -> pd.DataFrame:
    """A row a search. Raises ``SystemExit`` saying what is missing where there is no GPU."""
    reason = cuda.missing()
    if reason is not None:
        raise SystemExit(f"bench-gpu needs a GPU: {reason}")
    kernels().to_csv(Path("results") / "bench_gpu_kernels.csv", index=False)
    frame = searches((*PAPER, *SQUARE, *TRANSFORMER), ("cuda", "cpu"))
    picture(frame).savefig(Path("results") / "bench_gpu.png")
    return frame


def picture(frame: pd.DataFrame) -> Figure:
    """A panel a size, a line a strategy and backend: those that decide, as more would not be told apart."""
    shown = frame[frame["strategy"].isin(["auto", "channel_swap,0"]) | (frame["backend"] == "apex")]
    names = shown["strategy"].str.replace(",", " ").where(shown["backend"] != "apex", "groups")
    return sl.plots.search_pareto(shown.assign(strategy=names + " on " + shown["backend"]))


def searches(sizes: tuple[tuple[int, int], ...], backends: tuple[str, ...]) -> pd.DataFrame:
    """Every strategy at every size on every backend, and the reference tool where it can be imported."""
    rows: list[Row] = []
    for size in sizes:
        scores = authors_matrix(*size)
        for backend in backends:
            for strategy, limit in _runs(size[1], backend):
                search = partial(sl.search_permutation, scores, strategy=strategy, backend=backend)
                search(time_limit=1e-3)  # compiles
                result = search(time_limit=limit)
                rows.append((*size, backend, strategy, limit, result.efficacy, result.seconds, _machine(backend)))
        rows += _reference(scores)
    return pd.DataFrame(rows, columns=COLUMNS)


def _runs(channels: int, backend: str) -> Iterator[tuple[str, float | None]]:
    if backend == "cpu" and channels > LONGEST_ON_A_CPU:
        yield "auto", LIMITS[-1]
        return
    yield from ((strategy, None) for strategy, most in STRATEGIES.items() if channels <= most)
    yield from (("auto", limit) for limit in (None, *LIMITS))


def _machine(backend: str) -> str:
    if backend == "cuda" or backend == "apex":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _reference(scores: np.ndarray) -> list[Row]:
    """The reference tool's exhaustive search inside groups of 2 and 3, as its users call it."""
    checkout = os.environ.get("SPARSELAB_APEX")
    if not checkout:
        return []
    sys.path.insert(0, checkout)
    try:
        from apex.contrib.sparsity.permutation_search_kernels import accelerated_search_for_good_permutation as search
    finally:
        sys.path.remove(checkout)
    rows: list[Row] = []
    for size, escapes, most in REFERENCE:
        if scores.shape[1] > most:
            continue
        options = {"strategy": "exhaustive", "stripe_group_size": size, "escape_attempts": escapes}
        matrix = torch.from_numpy(scores.astype(np.float32))
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            order = np.asarray(search(matrix, options))
        taken = time.perf_counter() - start
        problem = SearchProblem.from_matrix(scores)
        found = efficacy(problem.retained(order), problem.retained(), problem.ideal())
        rows.append((*scores.shape, "apex", f"stripe_groups,{size},{escapes}", None, found, taken, _machine("apex")))
    return rows


def kernels() -> pd.DataFrame:
    """Each hot kernel's rate, and its share of the bound: steps a cycle and processor, or a copy's bandwidth."""
    from sparselab.ops.backend import load

    size = 2048
    handle = load(np.random.default_rng(0).random((size, size), np.float32), 2, 4, "cuda")
    order, groups = np.arange(size), size // 4
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    ceiling = 64 * properties.multi_processor_count * _clock_hz()
    orders, seeds = np.tile(order, (8, 1)), np.arange(8)
    weight = torch.randn(8192, 8192, device="cuda")
    copied = 2 * weight.nbytes / _seconds(weight.clone)
    rows = [
        ("table, copied back", "max-adds/s", size**3 / _seconds(lambda: handle.table(order, order, order)), ceiling),
        ("table kernel", "max-adds/s", size**3 / _seconds(lambda: _table(handle, order)), ceiling),
        ("an assignment move of 8 chains", "byte differences/s", _dealt(handle, orders, seeds, groups), 4 * ceiling),
        ("mask 2:4", "bytes/s", 5 * weight.numel() / _seconds(lambda: sl.create_mask(weight, "2:4")), copied),
    ]
    frame = pd.DataFrame(rows, columns=["kernel", "unit", "rate", "bound"])
    frame["percent"] = 100 * frame["rate"] / frame["bound"]
    return frame


def _table(handle: object, order: np.ndarray) -> None:
    """The product alone, left on the device."""
    slots = np.arange(len(order))
    groups = order.reshape(-1, handle.m)[slots // handle.m]
    handle._product(groups, slots % handle.m, handle.indices(order))


def _dealt(handle: object, orders: np.ndarray, seeds: np.ndarray, groups: int) -> float:
    moves = np.zeros(REPEATS)
    taken = seconds(lambda: handle.assign(orders, moves, seeds))
    return REPEATS * len(orders) * groups**2 * handle.rows / taken


def _seconds(work: Callable[[], object]) -> float:
    """Seconds each of ``REPEATS`` runs, started one after the other and waited for once."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(REPEATS):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / REPEATS


def _clock_hz() -> float:
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    return 1e6 * float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
