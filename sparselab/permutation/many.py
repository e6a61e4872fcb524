"""``search_permutations``: many searches side by side, such as those of all layers of a network."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

from sparselab.core.interrupts import interrupted_afterwards
from sparselab.core.keywords import STRATEGY, instead
from sparselab.masks import AnyPattern, searched_pattern
from sparselab.ops.threads import at_most, on_the_same_gpu, thread_count
from sparselab.permutation.auto import usual_seconds
from sparselab.permutation.coercion import Searchable, as_problem
from sparselab.permutation.judges import Judge
from sparselab.permutation.problem import SearchProblem
from sparselab.permutation.result import SearchResult
from sparselab.permutation.searching import SearchOptions, run_search
from sparselab.permutation.strategy import Callback, Strategy
from sparselab.saliency import Saliency

_CHAINS = 2  # threads that most strategies can use; more searches at a time gain more


@instead(permutation=STRATEGY)
def search_permutations(
    matrices_or_problems: Iterable[Searchable],
    pattern: AnyPattern = "2:4",
    *,
    strategy: str | Strategy = "auto",
    saliency: Saliency = "magnitude",
    seed: int = 0,
    backend: str = "auto",
    time_limit: float | None = None,
    progress: bool = False,
    bound: bool = False,
    callback: Callback | None = None,
) -> list[SearchResult]:
    """``search_permutation`` for each of many, such as all layers of a network, side by side.

    Results are in the same order. Options are those of ``search_permutation``. As many run at a
    time as there are threads for (``torch.set_num_threads``), the largest first; which and how many
    changes no result. On a GPU they share it, and what one does on the host overlaps with the
    others. The ``k``-th problem gets the seed ``seed + k``, so problems added at the end change no
    earlier result. ``time_limit`` is for all of them together, shared out by their size.

    ``progress`` counts the problems that are done. ``callback(seconds, retained)`` is called from several threads.
    Memory is that of the searches that run at a time. ``KeyboardInterrupt`` ends all searches; each result is then the
    best so far (``interrupted``), and problems whose search had not begun keep the order given (``identity``). Raises
    ``ValueError`` for anything that ``search_permutation`` refuses, naming which of the problems it is, before anything
    is searched.

    >>> import torch
    >>> [len(result.order) for result in search_permutations([torch.rand(4, 8), torch.rand(16, 32)])]
    [8, 32]
    """
    options = SearchOptions(searched_pattern(pattern), strategy, seed, backend, time_limit, bound)
    items = _several(matrices_or_problems)
    problems = [_problem(number, item, saliency, options.judge) for number, item in enumerate(items)]
    options.warm_up(backend)
    return _Batch(problems, options, callback).run(progress)


def _several(given: Any) -> list[Any]:
    """The items of what is ``given``; ``ValueError`` where it has none to go through."""
    if not isinstance(given, Iterable):
        raise ValueError(
            f"search_permutations takes a list of weights, matrices or problems, got {type(given).__name__}"
        )
    return list(given)


def _problem(number: int, item: Searchable, saliency: Saliency, judge: Judge) -> SearchProblem:
    try:
        problem = as_problem(item, saliency)
        problem.check(judge)
    except ValueError as error:
        raise ValueError(f"problem {number}: {error}") from error
    return problem


@dataclass(eq=False)
class _Batch:
    """Searches that share the threads, and the time, that there are."""

    problems: list[SearchProblem]
    options: SearchOptions
    callback: Callback | None
    started: float = field(init=False, default_factory=time.perf_counter)
    stopped: threading.Event = field(init=False, default_factory=threading.Event)
    work: dict[int, float] = field(init=False)  # of each problem whose search has not ended, in usual seconds

    def __post_init__(self) -> None:
        threads = thread_count()
        self.side_by_side = max(1, min(len(self.problems), threads // _CHAINS if threads > _CHAINS else threads))
        self.threads_each = max(1, threads // self.side_by_side)
        self.work = {k: usual_seconds(problem.rows, problem.size) for k, problem in enumerate(self.problems)}

    def run(self, progress: bool) -> list[SearchResult]:
        """All results."""
        from tqdm import tqdm

        largest_first = sorted(self.work, key=lambda number: -self.work[number])
        bar = tqdm(total=len(self.problems), desc="searching", disable=not progress)
        name, initializer = "sparselab-search", on_the_same_gpu()
        with bar, ThreadPoolExecutor(self.side_by_side, name, initializer) as pool:
            try:
                with contextlib.suppress(KeyboardInterrupt):  # the best orders so far are what was asked for
                    with interrupted_afterwards():  # every search has to be known, or nobody would wait for it
                        futures = {number: pool.submit(self._search, number) for number in largest_first}
                    for future in futures.values():
                        future.add_done_callback(lambda _: bar.update())
                    wait(futures.values(), return_when=FIRST_EXCEPTION)
            finally:
                self.stopped.set()
        return [futures[number].result() for number in range(len(self.problems))]

    def _search(self, number: int) -> SearchResult:
        options = replace(self.options, seed=self.options.seed + number, time_limit=self._share(number))
        if self.stopped.is_set():
            options = replace(options, strategy="identity", bound=False)
        with at_most(self.threads_each):
            result = run_search(self.problems[number], options, time.perf_counter(), self._report)
        del self.work[number]
        return result

    def _share(self, number: int) -> float | None:
        """The seconds that a search which begins now may take.

        This is its share of the time that is left, among the searches that still run.
        """
        if self.options.time_limit is None:
            return None
        left = max(1e-3, self.options.time_limit - (time.perf_counter() - self.started))
        return left * min(1.0, self.side_by_side * self.work[number] / sum(list(self.work.values())))

    def _report(self, seconds: float, retained: float) -> None:
        """Called by every search at every candidate; ends it when all are to end."""
        if self.callback is not None:
            try:
                self.callback(seconds, retained)
            except KeyboardInterrupt:
                self.stopped.set()
        if self.stopped.is_set():
            raise KeyboardInterrupt
