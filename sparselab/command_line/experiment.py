"""``sparselab experiment``: the sweep that a TOML file describes."""

from __future__ import annotations

import logging
import multiprocessing
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from sparselab.command_line.models import function_of
from sparselab.command_line.printing import print_frame
from sparselab.command_line.report import failures_of, print_summary
from sparselab.sweeps import experiment


def run_sweep(options: Namespace) -> int:
    """Run the sweep that a TOML file describes."""
    file = Path(options.file)
    arguments = read_sweep(file)
    store = Path(options.store) if options.store else file.with_suffix(".sqlite")
    with _workers(options.workers) as executor, _said_here(not options.json):
        frame: pd.DataFrame = experiment(
            **arguments,
            executor=executor,
            store=store,
            resume=options.resume,
            retry_failed=options.retry_failed,
            progress=options.progress,
        )
    failed = int((frame["state"] == "failed").sum())
    if options.json:
        print_frame(frame, as_json=True)
    else:
        print_summary(frame)
        print(f"{len(frame) - failed} of {frame.attrs['trials']} trials done, {failed} failed; kept in {store}")
        _print_failures(failures_of(frame), store)
    if frame.attrs["interrupted"]:
        return 130
    return 1 if failed else 0


def _print_failures(failures: list[str], store: Path) -> None:
    """The most frequent failure, and how many others there are."""
    if failures:
        others = len(failures) - 1
        more = f" (and {others} other error{'s' * (others > 1)}: sparselab report {store})" if others else ""
        print(failures[0] + more)


@contextmanager
def _said_here(said: bool) -> Iterator[None]:
    """Keep from the log what this command says itself, if it does."""
    log = logging.getLogger("sparselab.sweeps")
    before = log.level
    if said:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def read_sweep(file: Path) -> dict[str, Any]:
    """The arguments of ``experiment`` in a TOML file: keys are inputs, arrays are axes.

    ``"none"`` stands for ``None`` and ``{ range = [0, 3] }`` for ``range(0, 3)``; ``task = "module:function"`` is a
    function of a module beside the file or installed. Raises ``ValueError`` for what is not TOML and for options that
    belong to the command line.
    """
    if not file.is_file():
        raise ValueError(f"no such file: {file}")
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {error}") from error
    if "task" not in given:
        raise ValueError(f'{file} names no task: write task = "fashion_mnist", or "module:function"')
    elsewhere = sorted(set(given) & {"executor", "store", "resume", "retry_failed", "progress", "where", "background"})
    if elsewhere:
        raise ValueError(f"{file}: {', '.join(elsewhere)} belongs on the command line; see sparselab experiment --help")
    arguments = {name: _from_toml(value) for name, value in given.items()}
    tasks = arguments["task"] if isinstance(arguments["task"], list) else [arguments["task"]]
    arguments["task"] = [function_of(task, file.parent, str(file)) if ":" in task else task for task in tasks]
    return arguments


def _from_toml(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_toml(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"range"}:
            return range(*value["range"]) if isinstance(value["range"], list) else range(value["range"])
        return {name: _from_toml(item) for name, item in value.items()}
    return None if value == "none" else value


def _workers(count: int) -> AbstractContextManager[Executor | None]:
    if count < 0:
        raise ValueError(f"--workers {count}: give a number of processes, or 0 to run in this one")
    if count == 0:
        return nullcontext()
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
