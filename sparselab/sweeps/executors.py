"""Trials on an executor: any of ``concurrent.futures``, or one whose jobs only know ``done`` and ``result``."""

from __future__ import annotations

import pickle
import queue
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from itertools import islice
from typing import Any, Protocol
from uuid import uuid4

from sparselab.sweeps.store import Outcome
from sparselab.sweeps.worker import Parcel, Task, failed, run_parcel, run_trial

_IN_FLIGHT = 1024  # trials handed to an executor at a time: enough for any cluster, and memory stays flat
_POLL_SECONDS = 0.2

# What a future raises when the pool is at fault, not the trial: it is gone, or its workers cannot import sparselab.
_POOL_FAILURES = (BrokenExecutor, CancelledError, ImportError)


class Future(Protocol):
    """What is asked of the jobs of an executor."""

    def done(self) -> bool:
        """Whether there is a result."""

    def result(self) -> Any:
        """The result; raises what the job raised."""

    def cancel(self) -> object:
        """Do not start it, if it has not started."""


class Executor(Protocol):
    """What is asked of an executor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Run ``fn(*args)`` somewhere; returns its ``Future``."""


@dataclass(frozen=True)
class Job:
    """A trial that is to run: its place in the sweep, its key, its task's name, its task and its inputs."""

    position: int
    key: str
    name: str
    task: Task
    inputs: Mapping[str, Any]


Deliver = Callable[[Job, Outcome], None]
Stopping = Callable[[], bool]


def run_here(jobs: Iterator[Job], threads: int, deliver: Deliver) -> None:
    """One trial after the other, in this process."""
    for job in jobs:
        outcome = run_trial(job.task, job.inputs, threads)
        try:
            deliver(job, outcome)
        except KeyboardInterrupt:
            deliver(job, outcome)  # it is finished: keep it, and then stop
            raise


def run_on(executor: Executor, jobs: Iterator[Job], threads: int, deliver: Deliver, stopping: Stopping) -> None:
    """Trials on an executor, delivered as they finish; delivering twice must do no harm.

    Interrupted, or when the pool breaks, what has not started is cancelled, what is finished is delivered, and the
    exception goes on. Once it is ``stopping``, what has not started is cancelled, and what has is waited for. The
    executor stays open: it is the caller's.
    """
    flight = _Flight(executor, _Packer(threads), stopping)
    try:
        while flight.fill(jobs):
            future = flight.landed()
            if future in flight.jobs:
                deliver(flight.jobs[future], _outcome(future))
                del flight.jobs[future]
    except BaseException:
        for future in flight.jobs:
            future.cancel()
        for future, job in flight.jobs.items():
            if future.done():
                with suppress(Exception, CancelledError):
                    deliver(job, future.result())
        raise


def _outcome(future: Future) -> Outcome:
    try:
        outcome = future.result()
    except _POOL_FAILURES:
        raise
    except Exception as error:  # this trial killed its worker, or was lost on the way
        return failed(error)
    if not isinstance(outcome, Outcome):
        raise TypeError(f"the executor returned {outcome!r:.200} in place of what its worker returned")
    return outcome


@dataclass
class _Packer:
    """Pickles trials, the task of many of them only once."""

    threads: int
    run: str = field(default_factory=lambda: uuid4().hex)
    tasks: dict[int, tuple[Task, bytes]] = field(default_factory=dict)

    def pack(self, job: Job) -> Parcel:
        if id(job.task) not in self.tasks:
            self.tasks[id(job.task)] = job.task, packed("the task", job.task)
        return Parcel(self.tasks[id(job.task)][1], packed("an input", dict(job.inputs)), self.threads, self.run)


@dataclass
class _Flight:
    """The trials that an executor has, and the futures that have landed."""

    executor: Executor
    packer: _Packer
    stopping: Stopping
    jobs: dict[Any, Job] = field(default_factory=dict)
    arrivals: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    silent: dict[Any, Job] = field(default_factory=dict)  # jobs without callbacks, such as submitit's

    def fill(self, jobs: Iterator[Job]) -> bool:
        """Hand on as many trials as may be under way; whether any are."""
        for job in islice(jobs, _IN_FLIGHT - len(self.jobs)):
            future = self.executor.submit(run_parcel, self.packer.pack(job))
            self.jobs[future] = job
            if hasattr(future, "add_done_callback"):
                future.add_done_callback(self.arrivals.put)
            else:
                self.silent[future] = job
        return bool(self.jobs)

    def ground(self) -> bool:
        """Cancel what has not started; whether anything is under way still. Jobs without callbacks do not tell."""
        for future in [future for future in self.jobs if future not in self.silent and future.cancel()]:
            del self.jobs[future]
        return bool(self.jobs)

    def landed(self) -> Any:
        """The next future that is done; ``None`` where all were cancelled. Those without callbacks are asked now and then."""
        while True:
            if self.stopping() and not self.ground():
                return None
            for future in self.silent:
                if future.done():
                    del self.silent[future]
                    return future
            with suppress(queue.Empty):
                return self.arrivals.get(timeout=_POLL_SECONDS)


def packed(what: str, value: object) -> bytes:
    """``value`` pickled by value where workers cannot import it; ``ValueError`` naming it where that is impossible."""
    import cloudpickle

    module = sys.modules.get(getattr(value, "__module__", None) or "")
    by_value = module is not None and not _importable(module.__name__)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        data: bytes = cloudpickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what} {value!r:.200} cannot travel to another process: {error}. Make what it holds inside the task, or "
            "run with executor=None"
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return data


def _importable(module: str) -> bool:
    return module == "__main__" or PathFinder.find_spec(module.partition(".")[0]) is not None


def check_executor(executor: object) -> None:
    """Raise ``ValueError`` for what is no executor; warn of a process pool that forks."""
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(
            f"executor={executor!r} has no submit(); give a concurrent.futures.Executor, such as a ProcessPoolExecutor, "
            "a Dask client's client.get_executor(), or None"
        )
    if isinstance(executor, ProcessPoolExecutor):
        context = getattr(executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            warnings.warn(
                "this process pool forks: PyTorch's threads do not survive a fork, and trials may hang. Use "
                'ProcessPoolExecutor(..., mp_context=multiprocessing.get_context("spawn"))',
                stacklevel=4,
            )
