"""From a problem and checked options to a result: what ``search_permutation`` and ``search_permutations`` run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparselab.core.patterns import Pattern
from sparselab.permutation.bounds import prove_bound
from sparselab.permutation.coercion import as_strategy, require_seed, require_time_limit
from sparselab.permutation.judged import JudgedProblem
from sparselab.permutation.judges import Judge, judge_of
from sparselab.permutation.problem import SearchProblem
from sparselab.permutation.progress import progress_bar
from sparselab.permutation.result import SearchResult
from sparselab.permutation.strategy import Callback, Search, Strategy
from sparselab.permutation.warming_up import warm_up

_ROUNDING = 1e-12


@dataclass(frozen=True)
class SearchOptions:
    """How to search; see ``search_permutation``. Raises ``ValueError`` for what no problem can be searched with."""

    pattern: str | Pattern
    strategy: str | Strategy
    seed: int
    backend: str
    time_limit: float | None
    bound: bool

    def __post_init__(self) -> None:
        _ = self.judge, self.chosen
        require_seed(self.seed)
        require_time_limit(self.time_limit)
        self.judge.check_backend(self.backend)

    @cached_property
    def judge(self) -> Judge:
        """What orders are judged by."""
        return judge_of(self.pattern)

    @cached_property
    def chosen(self) -> Strategy:
        """The strategy itself."""
        return as_strategy(self.strategy)

    def warm_up(self, backend: str, errors: bool = False) -> float:
        """Compile before a time limit starts; the seconds that it took, 0 without a limit."""
        return 0.0 if self.time_limit is None else warm_up(self.chosen, self.pattern, backend, errors)


def run_search(
    problem: SearchProblem,
    options: SearchOptions,
    started: float,
    callback: Callback | None = None,
    progress: bool = False,
) -> SearchResult:
    """Search ``problem``, with a clock that began at ``started``. Raises ``ValueError`` where it cannot be searched."""
    judged = JudgedProblem.of(problem, options.judge, options.backend)
    started += options.warm_up(judged.backend, problem.by_errors)
    with _reporting(callback, options.time_limit, progress) as report:
        search = judged.begin(options.seed, started, options.time_limit, report)
        if search.matrix.rows and search.groups > 1:
            _until_interrupted(search, options.chosen)
        seconds = search.elapsed()
        if options.bound:
            _until_interrupted(search, prove_bound)
    return _result(judged, options, search, seconds)


def _reporting(
    callback: Callback | None, time_limit: float | None, progress: bool
) -> AbstractContextManager[Callback | None]:
    return progress_bar(time_limit, callback) if progress else nullcontext(callback)


def _until_interrupted(search: Search, work: Callable[[Search], object]) -> None:
    """Do ``work``, unless there is or was an interrupt: then the best order so far is what was asked for."""
    if search.interrupted:
        return
    try:
        work(search)
    except KeyboardInterrupt:
        search.interrupted = True


def _result(judged: JudgedProblem, options: SearchOptions, search: Search, seconds: float) -> SearchResult:
    """What was found, counted anew in float64; the identity where the search took rounding for a gain."""
    order, baseline, retained = search.best, judged.retained(None), judged.retained(search.best)
    if retained <= baseline:
        order, retained = np.arange(judged.problem.size), baseline
    ideal = judged.ideal()
    if ideal - baseline <= _ROUNDING * ideal:
        ideal = baseline  # nothing to gain, up to the rounding of the sums
    return SearchResult(
        order=order,
        baseline=baseline,
        retained=retained,
        ideal=ideal,
        seconds=seconds,
        evaluations=search.evaluations,
        strategy=str(options.strategy),
        backend=judged.backend,
        pattern=str(Pattern.parse(options.pattern)),
        seed=options.seed,
        history=_history(search, baseline, retained),
        upper_bound=_upper_bound(search, baseline, retained, ideal, options.bound),
        interrupted=search.interrupted,
    )


def _history(search: Search, baseline: float, retained: float) -> tuple[tuple[float, float], ...]:
    """The improvements, from ``baseline`` to ``retained``, with the searched sums of float32 kept between those two."""
    times = [at for at, _ in search.history]
    between = [min(max(search.counted(value, baseline), baseline), retained) for _, value in search.history]
    return tuple(zip(times, [baseline, *between[1:-1], retained] if len(times) > 1 else [retained]))


def _upper_bound(search: Search, baseline: float, retained: float, ideal: float, wanted: bool) -> float | None:
    if search.upper_bound is None:
        return ideal if wanted else None
    return max(retained, min(ideal, search.counted(search.upper_bound, baseline)))
