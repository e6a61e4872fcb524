"""What a sweep costs besides its trials: 10,000 trivial ones through the store, here and on a process pool."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import pandas as pd

import sparselab as sl
from sparselab.sweeps import Trial

TRIALS = 10_000


def trivial(trial: Trial) -> dict[str, float]:
    return {"y": trial.x * 0.5, "z": trial.x + trial.seed}


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(name: str, trials: int, executor: Executor | None, store: Path) -> tuple[str, int, float, float, float]:
    before = resident_mb()
    start = time.perf_counter()
    frame = sl.experiment(trivial, x=range(trials), executor=executor, store=store, progress=False)
    seconds = time.perf_counter() - start
    own = frame["seconds_total"].sum() / (1 if executor is None else executor._max_workers)
    assert (frame["state"] == "done").all()
    return name, trials, seconds, 1e3 * (seconds - own) / trials, resident_mb() - before


def run() -> pd.DataFrame:
    """A row a way to run; targets: under 180 s, under 20 ms a trial, and memory that grows by the frame alone."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        measure("warm-up", 10, None, Path(folder) / "warm.sqlite")
        rows.append(measure("here", TRIALS // 10, None, Path(folder) / "tenth.sqlite"))
        rows.append(measure("here", TRIALS, None, Path(folder) / "here.sqlite"))
        rows.append(measure("here, all in the store", TRIALS, None, Path(folder) / "here.sqlite"))
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            measure("warm-up", 10, pool, Path(folder) / "warm_pool.sqlite")
            rows.append(measure("pool of 2 processes", TRIALS, pool, Path(folder) / "pool.sqlite"))
    frame = pd.DataFrame(rows, columns=["how", "trials", "seconds", "overhead ms a trial", "memory grown MB"])
    return frame.assign(**{"target seconds": 180, "target ms": 20})
