"""One trial, wherever it runs: seeded, on a fixed number of threads, measured, and never the end of the sweep."""

from __future__ import annotations

import functools
import platform
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from sparselab._version import __version__
from sparselab.core.fingerprint import Cell, cell, printable
from sparselab.metrics.metric import Quantity
from sparselab.ops.backends import resolve
from sparselab.sweeps.grid import RESERVED
from sparselab.sweeps.memory import cuda_in_use, peak_memory_mb, reset_peak_memory
from sparselab.sweeps.store import Outcome, Series
from sparselab.sweeps.trial import Trial

Task = Callable[[Trial], Mapping[str, Any]]

MAX_SEED = 2**32 - 1  # numpy's limit
_MAX_TEXT = 20_000

# Random generators and the number of threads belong to the process, so a process runs one trial at a time, also where
# an executor has several threads in it. A trial may run a sweep of its own.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Parcel:
    """A trial on its way to a worker: pickled, because the functions of a notebook travel by value."""

    task: bytes
    inputs: bytes
    threads: int
    run: str  # tells two runs of the same trial apart for executors that cache by argument


def run_parcel(parcel: Parcel) -> Outcome:
    """What a worker does with a parcel."""
    import cloudpickle

    return run_trial(_task(parcel.task), cloudpickle.loads(parcel.inputs), parcel.threads)


@functools.lru_cache(maxsize=4)
def _task(pickled: bytes) -> Task:
    import cloudpickle

    task: Task = cloudpickle.loads(pickled)
    return task


def run_trial(task: Task, inputs: Mapping[str, Any], threads: int) -> Outcome:
    """Run ``task`` on one trial. Whatever it raises, except ``KeyboardInterrupt``, is the outcome ``failed``.

    Python's, numpy's and torch's generators are seeded with the trial's ``seed`` and torch runs on
    ``inputs["threads"]`` or else ``threads`` threads; all of it is as it was afterwards.
    """
    with _ONE_AT_A_TIME:
        measured: dict[str, Cell] = {}
        reset_peak_memory()
        start = time.perf_counter()
        try:
            with random_of_this_thread(), reproducible(inputs["seed"], inputs.get("threads", threads)):
                measured["threads"] = torch.get_num_threads()
                outcome = _outcome(task(Trial(inputs)), inputs)
        except (Exception, SystemExit) as error:
            outcome = failed(error)
        measured = {"seconds_total": time.perf_counter() - start, **peak_memory_mb(), **_machine(), **measured}
        timed = {k: v for k, v in outcome.metrics.items() if k in measured or k.startswith("seconds_")}
        metrics = {k: v for k, v in outcome.metrics.items() if k not in timed}
        return replace(
            outcome, metrics=metrics, measured={**timed, **{k: v for k, v in measured.items() if k not in timed}}
        )


def failed(error: BaseException) -> Outcome:
    """The outcome of a trial that raised: the error in a line, and the traceback from the task's own code on."""
    here = error.__traceback__
    while here is not None and here.tb_frame.f_code.co_filename == __file__:
        here = here.tb_next
    lines = printable("".join(traceback.format_exception(type(error), error, here)))
    text = printable(f"{type(error).__name__}: {_message(error)}").strip().splitlines()[0]
    return Outcome("failed", error=text[:_MAX_TEXT], traceback=lines[-_MAX_TEXT:])


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # whatever an exception of the task's own does there: the trial failed, not the sweep
        return "an error that cannot be printed"


@contextmanager
def random_of_this_thread() -> Iterator[None]:
    """The functions of ``random`` draw from a generator of this thread's own; in the main thread nothing changes.

    A worker thread has those of its executor beside it, and they draw from Python's generator too (Dask's do while a
    worker starts): between a seed and what follows from it nobody else may draw. Other threads go on as before.
    """
    thread = threading.current_thread()
    if thread is threading.main_thread():
        yield
        return
    own = random.Random()
    shared = {
        name: function
        for name in random.__all__
        if isinstance(getattr(function := getattr(random, name), "__self__", None), random.Random)
    }

    def dispatched(name: str) -> Callable[..., Any]:
        mine, theirs = getattr(own, name), shared[name]
        return lambda *args, **kwargs: (mine if threading.current_thread() is thread else theirs)(*args, **kwargs)

    try:
        for name in shared:
            setattr(random, name, dispatched(name))
        yield
    finally:
        for name, function in shared.items():
            setattr(random, name, function)


@contextmanager
def reproducible(seed: object, threads: object) -> Iterator[None]:
    """Seed every generator and fix the number of threads for the block; all as before at its end.

    Raises ``ValueError`` for a seed outside ``[0, 2^32)`` and for less than one thread.
    """
    seed = _integer("seed", seed, 0, MAX_SEED)
    threads = _integer("threads", threads, 1, 4096)
    before = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    devices = range(torch.cuda.device_count()) if cuda_in_use() else []
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            torch.set_num_threads(threads)
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_num_threads(before[2])
            cudnn.deterministic, cudnn.benchmark = flags


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high:
        return int(value)
    raise ValueError(f"{name}={value!r} must be an integer from {low} to {high}")


def _outcome(returned: object, inputs: Mapping[str, Any]) -> Outcome:
    """What a task returned, sorted by type: numbers and texts, time series (frames), and what it says of them."""
    if not isinstance(returned, Mapping):
        raise TypeError(f"a task returns a dict of metrics, got {returned!r:.200} ({type(returned).__name__})")
    frames = {name: value for name, value in returned.items() if isinstance(value, pd.DataFrame)}
    said = {name: _quantities(value) for name, value in returned.items() if name not in frames}
    metrics = {name: _metric(name, returned[name], inputs) for name, quantities in said.items() if not quantities}
    return Outcome(
        "done",
        {name: value for name, value in metrics.items() if name not in inputs},
        histories={name: _series(frame) for name, frame in frames.items()},
        quantities=[quantity for quantities in said.values() for quantity in quantities],
    )


def _quantities(value: object) -> tuple[Quantity, ...]:
    """A ``Quantity`` or several in a tuple; nothing for any other value."""
    several = value if isinstance(value, tuple) else (value,)
    return several if all(isinstance(each, Quantity) for each in several) else ()


def _metric(name: object, value: object, inputs: Mapping[str, Any]) -> Cell:
    if not isinstance(name, str) or name in RESERVED:
        raise ValueError(f"a metric cannot be called {name!r}: the frame has a column of that name, or needs a text")
    if name in inputs and cell(value) != cell(inputs[name]):
        raise ValueError(f"metric {name!r} is {value!r}, but the trial has an input of that name, {inputs[name]!r}")
    number = cell(value)
    if number is not None and not isinstance(number, (bool, int, float)) and not isinstance(value, (str, tuple)):
        raise TypeError(
            f"metric {name!r} is a {type(value).__name__}: numbers and strings become columns, a DataFrame a history"
        )
    return number


def _series(frame: pd.DataFrame) -> Series:
    named = frame.reset_index() if any(frame.index.names) else frame
    rows = [[cell(value) for value in row] for row in named.itertuples(index=False, name=None)]
    return Series([str(column) for column in named.columns], rows)


def _machine() -> dict[str, Cell]:
    device = "cpu"
    if cuda_in_use():
        device = f"cuda:{torch.cuda.current_device()} {torch.cuda.get_device_name()}"
    return {"backend": resolve("auto"), "device": device, "versions": versions()}


@functools.cache
def versions() -> str:
    """The versions that results may depend on, in one line."""
    return (
        f"sparselab {__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"python {platform.python_version()}"
    )
