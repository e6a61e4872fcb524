"""``experiment``: a grid of trials becomes a frame, one row per trial, and nothing that finished is lost."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd
import torch

from sparselab.core.fingerprint import cell, digest, hides_data
from sparselab.core.paths import as_path
from sparselab.sweeps.background import RunningSweep
from sparselab.sweeps.executors import Executor, Job, Stopping, check_executor, packed, run_here, run_on
from sparselab.sweeps.frames import frame_of
from sparselab.sweeps.grid import axis, check_names, chosen, grid
from sparselab.sweeps.progress import Bar
from sparselab.sweeps.runners import Runner, runner
from sparselab.sweeps.store import Outcome, Record, Store, temporary_path
from sparselab.sweeps.trial import Trial
from sparselab.sweeps.worker import versions

_log = logging.getLogger("sparselab.sweeps")

_KNOWN_INPUTS = ("seed", "threads")  # every trial's, whatever its task


@overload
def experiment(task: Any, *, background: Literal[True], **options: Any) -> RunningSweep: ...


@overload
def experiment(task: Any, *, background: Literal[False] = False, **options: Any) -> pd.DataFrame: ...


def experiment(
    task: Any,
    *,
    trials: Iterable[Mapping[str, Any]] | None = None,
    where: Callable[[Trial], object] | None = None,
    executor: Executor | None = None,
    store: str | Path | None = None,
    resume: bool = True,
    retry_failed: bool = False,
    progress: bool = True,
    version: str | int | None = None,
    background: bool = False,
    **inputs: Any,
) -> pd.DataFrame | RunningSweep:
    """Run every combination of ``inputs`` and hand back a frame, one row per trial.

    ``task`` is a callable: it gets a ``Trial``, a frozen mapping of the inputs with attribute
    access, and returns a dict of numbers and strings, which become columns. A value that is a
    ``DataFrame`` is a time series: see ``history``; one that is a ``sl.tasks.Quantity`` (or a tuple
    of them) says of a column which way is better, and is no column itself. Every list, range,
    generator, 1-d array (numpy, torch, pandas) or ``Enum`` among ``inputs`` is an axis; strings,
    tuples and scalars are one value.
    ``trials`` are explicit inputs, each combined with the axes; ``where(trial)`` chooses. Trials
    that are equal run once.

    The frame has ``task``, the inputs (``seed``, 0 unless given, among them), the metrics, ``seconds_total,
    peak_memory_mb, backend, device, threads, versions``, then ``state`` (``done`` or ``failed``), ``error``,
    ``traceback`` and ``key``. ``attrs`` says how it was made, which column is what, and in ``quantities`` which way is
    better; the first of them is the headline, which figures draw and the progress bar shows.

    A trial that raises is a row with ``state="failed"``, and the log says at the end of the first why (a warning
    where all of them failed).
    Each is seeded with its ``seed`` and runs on ``inputs["threads"]`` threads, else on as many as torch has here, so
    that the same seed gives the same row wherever and in whatever order trials run. ``executor`` is anything with
    ``submit``: a spawned process pool, loky, Dask, Slurm through submitit (``docs/scaling.md``);
    ``None`` runs here, one after the other.

    ``store`` is a SQLite file to which each trial is written as it finishes; ``None`` keeps a temporary one. With
    ``resume`` trials that it holds are not run again (failed ones only with ``retry_failed``). They are known by their
    key: the hash of the inputs and of the task's source, or of ``version`` in place of the source.

    ``background=True`` returns at once, with a ``RunningSweep``: its ``frame`` has what is done,
    ``wait()`` and ``stop()`` end it, and ``SweepExplorer`` shows it live. Trials then run in a
    process of their own, unless an ``executor`` is given, so that nothing else here is held up or
    seeded by them.

    ``KeyboardInterrupt`` stops the sweep: the frame of what is done comes back, with ``attrs["interrupted"]``. A pool
    that breaks raises what it raised; what was finished is in the store. Raises ``ValueError`` before the first trial
    for a misspelt option, an empty axis, an input without a stable identity and a task that cannot travel.

    >>> frame = experiment(lambda trial: {"square": trial.x**2}, x=[1, 2, 3], progress=False)
    >>> frame[["x", "square", "state"]].to_dict("list")
    {'x': [1, 2, 3], 'square': [1, 4, 9], 'state': ['done', 'done', 'done']}
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    _check_spelling(inputs)
    runners = [runner(each) for each in axis("task", task)]
    sweep = _plan(runners, inputs, trials, where, version)
    if executor is not None or background:
        if executor is not None:
            check_executor(executor)
        for each in runners:
            packed("the task", each.task)
    else:
        for each in runners:
            each.prepare()
    path = as_path(store, "experiment(store=...)") if store is not None else temporary_path()
    made = {
        **sweep.made,
        "started": started,
        "executor": type(executor).__qualname__ if executor is not None else None,
        "versions": versions(),
    }
    with Store(path) as opened:
        opened.begin(sweep.key, made)
    bar = Bar(progress, len(sweep.jobs))

    def run(stopping: Stopping) -> bool:
        alone = ProcessPoolExecutor(1, mp_context=get_context("spawn")) if background and executor is None else None
        with closing(bar), Store(path) as opened, alone or nullcontext():
            interrupted = _run(
                *(sweep, opened, alone or executor, stopping, bar),
                resume=resume,
                retry_failed=retry_failed,
            )
            bar.close()  # the warning would stand in its line
            _log_failures(sweep.jobs, opened)
            return interrupted

    def frame(interrupted: bool) -> pd.DataFrame:
        attrs = {**made, "store": str(path.resolve()), "interrupted": interrupted}
        with Store(path) as opened:
            return frame_of(opened.records(job.key for job in sweep.jobs), attrs, opened.quantities())

    return RunningSweep(run, frame, path) if background else frame(run(_never))


def _never() -> bool:
    return False


@dataclass(frozen=True)
class _Sweep:
    """Every trial that a call asks for, once each, and how it asked."""

    key: str
    jobs: Sequence[Job]
    made: Mapping[str, Any]


def _plan(
    runners: Sequence[Runner],
    inputs: Mapping[str, Any],
    trials: Iterable[Mapping[str, Any]] | None,
    where: Callable[[Trial], object] | None,
    version: str | int | None,
) -> _Sweep:
    check_names(inputs)
    axes = {name: axis(name, value) for name, value in inputs.items()}
    explicit = None if trials is None else list(trials)
    jobs: dict[str, Job] = {}
    for each in runners:
        kept = chosen(map(each.fill, grid(axes, explicit)), where)
        each.check(kept)
        identity, shared = each.identity(version), each.task
        for given in kept:
            key = digest([identity, dict(sorted(given.items()))])
            job = Job(len(jobs), key, each.name, shared, given)
            _check_alike(jobs.setdefault(key, job), job)
    made = {
        "task": [each.name for each in runners],
        "axes": {name: [_noted(cell(value)) for value in values] for name, values in axes.items()},
        "trials": len(jobs),
        "version": version,
    }
    return _Sweep(digest(list(jobs)), list(jobs.values()), made)


def _check_alike(one: Job, other: Job) -> None:
    """Trials of one key run once: raise ``ValueError`` where they may differ in data that no key can tell."""
    pairs = [(one.task, other.task), *((one.inputs[name], other.inputs[name]) for name in one.inputs)]
    for first, second in pairs:
        if first is not second and hides_data(first):
            raise ValueError(
                f"two functions {cell(first)} of one source close over data, so neither this sweep nor a later one could tell "
                "their trials apart: hand the data over by functools.partial, or as an input"
            )


def _noted(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _run(
    sweep: _Sweep,
    store: Store,
    executor: Executor | None,
    stopping: Stopping,
    bar: Bar,
    *,
    resume: bool,
    retry_failed: bool,
) -> bool:
    """Run what is not in the store yet; whether that was interrupted, or asked to be by ``stopping``."""
    done = store.states(job.key for job in sweep.jobs) if resume else {}
    settled = {key for key, state in done.items() if state == "done" or not retry_failed}
    replace = retry_failed or not resume
    threads = torch.get_num_threads()
    bar.begin(len(settled))
    delivered: set[str] = set()

    def deliver(job: Job, outcome: Outcome) -> None:
        inputs = {name: cell(value) for name, value in job.inputs.items()}
        record = Record(job.key, job.name, inputs, outcome)
        store.save(sweep.key, job.position, record, replace=replace)
        if job.key not in delivered:
            delivered.add(job.key)
            bar.step(outcome)

    waiting = _waiting(sweep.jobs, settled, store, replace)
    jobs = takewhile(lambda _: not stopping(), waiting)
    try:
        if executor is None:
            run_here(jobs, threads, deliver)
        else:
            run_on(executor, jobs, threads, deliver, stopping)
    except KeyboardInterrupt:
        return True
    except Exception as error:
        error.add_note(
            f"{len(settled | delivered)} of {len(sweep.jobs)} trials are finished and kept in {store.path}; the same "
            "call with store= runs the rest"
        )
        raise
    return stopping()


def _log_failures(jobs: Sequence[Job], store: Store) -> None:
    """Say once of what trials failed: nobody may look at the column. Where all did, it is a warning."""
    states = store.states(job.key for job in jobs)
    failed = [job.key for job in jobs if states.get(job.key) == "failed"]
    errors = [record.outcome.error or "" for record in store.records(failed)]
    if errors:
        others = sum(error != errors[0] for error in errors)
        _log.log(
            logging.WARNING if len(errors) == len(jobs) else logging.INFO,
            "%d of %d trials failed, the first with %s%s; the columns `error` and `traceback` have all",
            *(len(errors), len(jobs), errors[0]),
            f" ({others} with another error)" if others else "",
        )


def _waiting(jobs: Iterable[Job], settled: set[str], store: Store, replace: bool) -> Iterator[Job]:
    """The trials that are still to run, asked one by one: another process may be working on the same sweep."""
    return (job for job in jobs if job.key not in settled and (replace or not store.states([job.key])))


def _check_spelling(inputs: Mapping[str, object]) -> None:
    """A misspelt option would silently become a column: take what is nearly one for a mistake."""
    options = [
        name
        for name, parameter in inspect.signature(experiment).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for name in inputs.keys() - _KNOWN_INPUTS:
        close = difflib.get_close_matches(name, [*options, *_KNOWN_INPUTS], n=1, cutoff=0.84)
        if close:
            raise ValueError(
                f"unknown option {name!r}; did you mean {close[0]!r}? Options: {', '.join(options)}. For an input of that "
                f"name say trials=[{{{name!r}: ...}}]"
            )
