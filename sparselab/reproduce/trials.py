"""Running the trials of a part: through ``experiment``, into the store of the reproduction where it has one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pandas as pd

from sparselab.reproduce.section import Settings
from sparselab.sweeps.experimenting import experiment
from sparselab.sweeps.trial import Trial
from sparselab.tasks import Task, get_task


def run_trials(task: str | Callable[[Trial], dict[str, Any]], settings: Settings, **inputs: Any) -> pd.DataFrame:
    """One row per trial of ``experiment(task, **inputs)``; what the store holds is not run again.

    Raises ``RuntimeError`` where a trial failed (the others are kept), and passes an interruption on.
    """
    frame: pd.DataFrame = experiment(
        task, store=settings.store, retry_failed=True, progress=settings.progress, **inputs
    )
    if frame.attrs["interrupted"]:
        raise KeyboardInterrupt
    failed = frame[frame["state"] == "failed"]
    if len(failed):
        first = failed.iloc[0]
        raise RuntimeError(
            f"{len(failed)} of {len(frame)} trials failed, the first with {first['error']}\n{first['traceback']}"
        )
    return frame.astype(dict.fromkeys(frame.select_dtypes("category"), object))


@functools.lru_cache(maxsize=2)
def loaded_task(name: str) -> Task:
    """A task with its data, which a process loads once for all trials of it."""
    return get_task(name)
