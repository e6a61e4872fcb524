"""Compiling what a search needs before its clock starts, by running the strategy on a toy."""

from __future__ import annotations

import contextlib
import time
from functools import lru_cache

import numpy as np

from sparselab.core.patterns import Pattern
from sparselab.permutation.coercion import as_strategy
from sparselab.permutation.judged import JudgedProblem
from sparselab.permutation.judges import Judge, judge_of
from sparselab.permutation.problem import SearchProblem
from sparselab.permutation.row_moments import RowMoments
from sparselab.permutation.strategy import OffersToy, Strategy


def warm_up(
    strategy: str | Strategy, pattern: str | Pattern = "2:4", backend: str = "auto", errors: bool = False
) -> float:
    """Have what a search by ``strategy`` needs compiled, once on a machine; returns the seconds that it took now.

    A ``time_limit`` never counts this. For clocks of one's own: call it before they start. What is run is the
    strategy's ``toy()``; strategies that offer none are left alone. ``errors``: for problems whose
    orders are judged by errors.
    """
    began = time.perf_counter()
    chosen = as_strategy(strategy)
    if isinstance(chosen, OffersToy):
        warm_up_toy(chosen.toy(), judge_of(pattern), backend, errors)  # type: ignore[arg-type]  # frozen, so it has a hash
    return time.perf_counter() - began


@lru_cache(maxsize=256)
def warm_up_toy(toy: Strategy, judge: Judge, backend: str, errors: bool = False) -> None:
    """Run ``toy`` on a small matrix of random scores, the first of two sizes that it does not refuse."""
    # Exhaustive search refuses what is enough groups for the others to be of use; a proof for large groups is no toy.
    for groups in (8, 4) if judge.m <= 4 else (3, 2):
        scores = np.random.default_rng(0).random((8, groups * judge.m), np.float32)
        moments = RowMoments.independent(*scores.shape) if errors else None
        problem = JudgedProblem.of(SearchProblem.from_matrix(scores, moments), judge, backend)
        with contextlib.suppress(ValueError):
            toy(problem.begin(seed=0))
            return
