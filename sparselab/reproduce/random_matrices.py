"""Searches on the random matrices that the paper's authors use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparselab.ops.backends import resolve
from sparselab.permutation import search_permutation, warm_up
from sparselab.reproduce.section import Settings
from sparselab.reproduce.trials import run_trials
from sparselab.sweeps.trial import Trial

LOSS_OF_A_FLOAT = 1e-6
"""Retained sums that differ by less than this, relatively, are the same order's."""


def authors_matrix(rows: int, channels: int, seed: int = 1) -> NDArray[np.float64]:
    """The matrix that the paper's authors use: ``numpy.random.seed(seed); numpy.random.rand(rows, channels)``."""
    return np.random.RandomState(seed).rand(rows, channels)


def why_no_gpu() -> str | None:
    """Why searches cannot run on a GPU here; ``None`` where they can."""
    try:
        resolve("cuda")
    except ValueError as error:
        return str(error).split(";")[0]
    return None


def search_all(settings: Settings, trials: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each of ``trials``: ``strategy, rows, channels, seed``, maybe ``time_limit`` and ``search_backend``.

    Adds ``baseline, retained, ideal, efficacy, seconds`` and ``bound``, an efficacy that no order
    exceeds, where the strategy proved one; ``identity`` is asked to.
    """
    wanted = [{"time_limit": None, "search_backend": "cpu", **trial} for trial in trials]
    for strategy, backend in dict.fromkeys((trial["strategy"], trial["search_backend"]) for trial in wanted):
        warm_up(strategy, backend=backend)  # so that no strategy's seconds include compiling
    return run_trials(search_trial, settings, trials=wanted)


def search_trial(trial: Trial) -> dict[str, Any]:
    """One search."""
    scores = authors_matrix(trial.rows, trial.channels, trial.seed)
    result = search_permutation(
        scores,
        strategy=trial.strategy,
        seed=trial.seed,
        time_limit=trial.time_limit,
        backend=trial.search_backend,
        bound=trial.strategy == "identity",
    )
    bound = result.bound_efficacy
    return {
        "baseline": result.baseline,
        "retained": result.retained,
        "ideal": result.ideal,
        "efficacy": result.efficacy,
        "seconds": result.seconds,
        "bound": float("nan") if bound is None else bound,
    }
