"""What the search reaches on a GPU: every strategy beside the CPU's and, where it is at hand, the reference tool's kernels.

Matrices are ``numpy.random.seed(1); numpy.random.rand(rows, channels)``; seconds are wall time after compilation. Set
``SPARSELAB_APEX`` to a checkout of Apex (tag 25.09) whose permutation search extension is built to have its strategies
timed too. Rows are saved as they come. Also writes results/bench_gpu_kernels.csv, each hot kernel beside the bound it runs
against (see docs/performance.md), results/bench_gpu_moves.csv, what a move of annealed assignment takes and its kernels' parts,
and results/bench_gpu.png.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

import sparselab as sl
from benchmarks.bench_search import pointwise_weights
from benchmarks.timing import seconds
from sparselab.core.measures import efficacy
from sparselab.ops import cuda
from sparselab.ops.cuda import device, masks
from sparselab.ops.cuda.matrix import _TILE, CudaMatrix, _blocks
from sparselab.permutation import SearchProblem
from sparselab.permutation.annealed_assignment import swap_spread
from sparselab.permutation.strategy import Search
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
    """One row per search. Raises ``SystemExit`` saying what is missing where there is no GPU."""
    reason = cuda.missing()
    if reason is not None:
        raise SystemExit(f"bench-gpu needs a GPU: {reason}")
    results = Path("results")
    for name, measured in (("kernels", kernels()), ("moves", moves())):
        print(f"\n{name}\n{measured.to_string(index=False)}", flush=True)
        measured.to_csv(results / f"bench_gpu_{name}.csv", index=False)
    rows: list[Row] = []
    for row in tqdm(itertools.chain(network(), searches((*SQUARE, *TRANSFORMER, *PAPER), ("cuda", "cpu"))), "searches"):
        rows.append(row)
        frame = pd.DataFrame(rows, columns=COLUMNS)
        frame.to_csv(results / "bench_gpu.csv", index=False)
    picture(frame[frame["rows"] > 0]).savefig(results / "bench_gpu.png")
    return frame


def picture(frame: pd.DataFrame) -> Figure:
    """One panel per size, one line per strategy and backend: those that decide, as more would not be told apart."""
    shown = frame[frame["strategy"].isin(["auto", "channel_swap,0"]) | (frame["backend"] == "apex")]
    names = shown["strategy"].str.replace(",", " ").where(shown["backend"] != "apex", "groups")
    return sl.plots.search_pareto(shown.assign(strategy=names + " on " + shown["backend"]))


def network() -> Iterator[Row]:
    """All 1x1 convolutions of EfficientNet-Lite0 in one go; 0 rows and channels stand for all of them."""
    try:
        layers = pointwise_weights()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        print(f"EfficientNet-Lite0 is left out: {error}", file=sys.stderr)
        return
    for backend in ("auto", "cuda"):
        sl.search_permutations(layers, backend=backend, time_limit=1e-3)  # compiles
        start = time.perf_counter()
        found = sl.search_permutations(layers, backend=backend)
        taken = time.perf_counter() - start
        kept = efficacy(*(sum(getattr(one, part) for one in found) for part in ("retained", "baseline", "ideal")))
        yield 0, 0, backend, "auto", None, kept, taken, _machine(backend)


def searches(sizes: Iterable[tuple[int, int]], backends: Sequence[str]) -> Iterator[Row]:
    """Every strategy at every size on every backend, and the reference tool where it can be imported."""
    for size in sizes:
        scores = authors_matrix(*size)
        for backend in backends:
            for strategy, limit in _runs(size[1], backend):
                search = partial(sl.search_permutation, scores, strategy=strategy, backend=backend)
                search(time_limit=1e-3)  # compiles
                result = search(time_limit=limit)
                yield *size, backend, strategy, limit, result.efficacy, result.seconds, _machine(backend)
        yield from _reference(scores)


def _runs(channels: int, backend: str) -> Iterator[tuple[str, float | None]]:
    if backend == "cpu" and channels > LONGEST_ON_A_CPU:
        yield "auto", LIMITS[-1]
        return
    yield from ((strategy, None) for strategy, most in STRATEGIES.items() if channels <= most)
    yield from (("auto", limit) for limit in (None, *LIMITS))


def _machine(backend: str) -> str:
    if backend in ("cuda", "apex"):
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


def kernels(size: int = 2048, shape: tuple[int, int] = (16384, 8192), where: str = "cuda") -> pd.DataFrame:
    """Each hot kernel's rate, and its share of the bound: steps a cycle at the highest clock, or a copy's bandwidth.

    A table of ``size`` channels and rows, the mask of a weight of that ``shape``, ``where`` torch says.
    """
    from sparselab.ops.backends import load

    matrix = load(np.random.default_rng(0).random((size, size), np.float32), 2, 4, "cuda")
    order = np.arange(size)
    ceiling = _max_adds() if where == "cuda" else float("nan")
    weight = torch.randn(shape, device=where)
    copied = 2 * weight.nbytes / seconds_each(weight.clone)
    here, mask = device.device_of(weight), 5 * weight.numel()  # bytes read and written
    rows = [
        (
            "table, copied back",
            "max-adds/s",
            size**3 / seconds_each(lambda: matrix.table(order, order, order)),
            ceiling,
        ),
        ("table kernel", "max-adds/s", size**3 / seconds_each(_table_kernel(matrix, order)), ceiling),
        ("mask kernel 2:4", "bytes/s", mask / seconds_each(lambda: masks.top_n_of_m(weight, 2, 4, here)), copied),
        (
            "create_mask 2:4",
            "bytes/s",
            mask / seconds_each(lambda: sl.create_mask(weight, "2:4")),
            copied,
        ),  # looks for NaN first
    ]
    frame = pd.DataFrame(rows, columns=["kernel", "unit", "rate", "bound"])
    frame["percent"] = 100 * frame["rate"] / frame["bound"]
    return frame


def _table_kernel(matrix: CudaMatrix, order: np.ndarray) -> Callable[[], None]:
    """The launch of ``sum_of_maxima`` alone."""
    size, (slice_, slices) = len(order), matrix._slices
    tiles = (_blocks(size, _TILE[1]), _blocks(size, _TILE[0]), slices)
    bounds = matrix.upload(np.random.default_rng(1).random((size, matrix.rows), np.float32))
    sums = matrix._device.empty((slices, size, size), np.float32)
    take = (bounds, size, matrix._values, matrix.indices(order), size, matrix.rows, slice_, sums)
    launch = matrix._launch.ready("sum_of_maxima", tiles, 256, *take)
    return lambda: matrix._device.run([launch])


def moves(
    sizes: Iterable[int] = (512, 1024, 2048, 4096), chains: Iterable[int] = (2, 32), *, apart: bool = True
) -> pd.DataFrame:
    """Microseconds of an annealed assignment move of all chains: with everything, and ``apart`` each of its kernels."""
    from sparselab.ops.backends import load

    rows = []
    for size, count in itertools.product(sizes, chains):
        matrix = load(authors_matrix(size, size).T.astype(np.float32), 2, 4, "cuda")
        orders, seeds = np.tile(np.arange(size), (count, 1)), np.arange(count)
        hot = 0.08 * swap_spread(Search(matrix, np.random.default_rng(0), time.perf_counter()), orders[0])
        noise = np.geomspace(hot, hot / 3, 10 * REPEATS)
        orders = matrix.assign(orders, noise, seeds)
        whole = seconds(partial(matrix.assign, orders, noise, seeds)) / len(noise)
        parts = _kernels_apart(matrix, orders, noise, seeds) if apart else (float("nan"),) * 3
        rows.append((size, count, 1e6 * whole, *parts))
    return pd.DataFrame(rows, columns=["size", "chains", "move", "open_slots", "sum_of_differences", "deal_back"])


def _kernels_apart(matrix: CudaMatrix, orders: np.ndarray, noise: np.ndarray, seeds: np.ndarray) -> Iterator[float]:
    """Microseconds of each kernel of a move, the medians over as many moves as there is ``noise``, by CUDA's events."""
    import cupy

    scores, unit = matrix._bytes
    _, launches = matrix._move(scores, orders, noise * unit, seeds)
    marks = [[cupy.cuda.Event() for _ in range(len(launches) + 1)] for _ in noise]
    for mark in marks:
        matrix._device.run([mark[0].record, *itertools.chain(*zip(launches, (done.record for done in mark[1:])))])
    matrix._device.stream.synchronize()
    parts = [[cupy.cuda.get_elapsed_time(*pair) for pair in itertools.pairwise(mark)] for mark in marks]
    return (1e3 * float(part) for part in np.median(parts, axis=0))


def seconds_each(work: Callable[[], object]) -> float:
    """Seconds each of ``REPEATS`` runs, started one after the other and waited for once."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    work()
    wait()
    start = time.perf_counter()
    for _ in range(REPEATS):
        work()
    wait()
    return (time.perf_counter() - start) / REPEATS


def _max_adds() -> float:
    """How many a second the processors can issue: 64 a cycle each, at the highest clock."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    clock = 1e6 * float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    return 64 * torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count * clock
