"""A search problem together with what its orders are judged by, and where it is searched."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from sparselab.permutation.judges import Judge
from sparselab.permutation.problem import Order, SearchProblem
from sparselab.permutation.strategy import Callback, Search


@dataclass(frozen=True, eq=False)
class JudgedProblem:
    """``problem``, whose orders ``judge`` judges, on ``backend``, which is known to be usable here."""

    problem: SearchProblem
    judge: Judge
    backend: str

    @classmethod
    def of(cls, problem: SearchProblem, judge: Judge, backend: str) -> JudgedProblem:
        """``problem`` on the backend that ``backend`` stands for. Raises ``ValueError`` for what cannot be searched."""
        problem.check(judge)
        return cls(problem, judge, problem.resolve(judge, backend))

    def begin(
        self,
        seed: int,
        started: float | None = None,
        time_limit: float | None = None,
        callback: Callback | None = None,
    ) -> Search:
        """A search that has found nothing yet; its clock began at ``started``, or begins now."""
        matrix = self.problem.load(self.judge, self.backend)
        exact = None if self.problem.is_wholly_searchable(self.judge.m) else self.retained
        started = time.perf_counter() if started is None else started
        return Search(matrix, np.random.default_rng(seed), started, time_limit, exact, callback)

    def retained(self, order: Order | None) -> float:
        """What ``order`` retains (``None``: as the units are), counted in float64."""
        return self.problem.retained(order, self.judge)

    def ideal(self) -> float:
        """What keeping the best N/M of every row would retain."""
        return self.problem.ideal(self.judge)
