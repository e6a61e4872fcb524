"""``search_permutation``: from a matrix and a strategy's name to the best order found."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparselab.core.patterns import Pattern
from sparselab.core.weight_matrix import to_matrix
from sparselab.ops.backends import Size, load, resolve
from sparselab.ops.matrix import LoadedMatrix
from sparselab.permutation.bounds import prove_bound
from sparselab.permutation.problem import MAX_CHANNELS, Matrix, SearchProblem
from sparselab.permutation.result import SearchResult
from sparselab.permutation.strategy import STRATEGIES, Callback, Search, Strategy
from sparselab.saliency import Saliency, scores

_ROUNDING = 1e-12
_ESCAPES = 100  # an option's usual size where the default is less

Searchable = torch.Tensor | Matrix | SearchProblem


def search_permutation(
    matrix_or_problem: Searchable,
    pattern: str | Pattern = "2:4",
    *,
    strategy: str | Strategy = "auto",
    saliency: Saliency = "magnitude",
    seed: int = 0,
    backend: str = "auto",
    time_limit: float | None = None,
    progress: bool = False,
    bound: bool = False,
    callback: Callback | None = None,
) -> SearchResult:
    """Search the order of input channels that lets an N:M mask, or a 2d mask, retain the most saliency.

    ``matrix_or_problem`` is a weight of any layer, a matrix ``(rows, channels)`` (torch or numpy, any float dtype, any
    device), or a ``SearchProblem``. A weight is scored by ``saliency``: ``"magnitude"``, a callable from weights to
    scores, or a tensor of scores of its shape; a problem brings its scores. ``strategy`` is a name with options
    (``"stripe_groups,8,100"``) or a configured object. It never hands back an order worse than the one given.

    The same ``seed`` gives the same order, whatever the number of threads, unless ``time_limit`` (seconds) is given:
    then the search ends after that long, and what anneals, so ``"auto"`` too, uses all of it (compiling, once on a machine, does
    not count). ``KeyboardInterrupt`` ends it too; either way the best order so far comes back. ``callback(seconds, retained)``
    hears of every candidate. ``bound=True`` adds ``upper_bound``.

    ``backend`` is ``"cpu"``, ``"cuda"`` (a GPU, by CuPy; the same orders on integer scores), ``"reference"`` (plain numpy)
    or ``"auto"``, which takes a GPU where there is one to use and the problem is large enough, and is in the result.

    With ``"m4n2_2d_best"`` (any N of up to 4) orders are judged by 2d masks, the rows staying where they are; so far on the
    CPU only. A network's rows are columns of what comes before: ``sparselab.permute`` searches both.

    Takes up to 2^28 scores and 16,384 channels. Memory, in bytes a score: 4 for the resident float32 copy, 1 for its
    8-bit shadow, and twice what the scores themselves take while they are stacked; tables of swaps add at most 256 MiB,
    each chain of annealing 4 bytes a pair of groups and 2 a group and row (64 MiB and half a byte a score for 2:4 at
    16,384 channels).

    Raises ``ValueError`` for scores that are negative or not finite, for channels that do not divide into groups, and
    for unknown names, and for ``"cuda"`` where it cannot be used, before anything is searched.

    >>> import torch
    >>> result = search_permutation(torch.arange(32.0).reshape(4, 8), strategy="channel_swap")
    >>> sorted(result.order.tolist()) == list(range(8)), result.efficacy >= 0
    (True, True)
    """
    started = time.perf_counter()
    parsed, chosen = check_search(pattern, strategy, backend, time_limit)
    problem = as_problem(matrix_or_problem, saliency)
    problem.check(parsed)
    backend = _backend(problem, parsed, backend)
    if time_limit is not None:
        started += warm_up(chosen, parsed, backend)
    with _progress_bar(progress, time_limit, callback) as report:
        search = _start(problem, parsed, seed, backend, started, time_limit, report)
        if search.matrix.rows and search.groups > 1:
            _until_interrupted(search, chosen)
        seconds = search.elapsed()
        if bound:
            _until_interrupted(search, prove_bound)
    return _result(search, problem, parsed, str(strategy), backend, seed, seconds, bound)


def as_problem(item: Searchable, saliency: Saliency = "magnitude") -> SearchProblem:
    """The search problem of a weight, matrix or problem; see ``search_permutation``."""
    if isinstance(item, SearchProblem):
        return item
    weight = _as_weight(item)
    if weight.ndim < 2:
        raise ValueError(f"a permutation needs a weight of at least 2 dimensions, got shape {tuple(weight.shape)}")
    if weight.shape[1] > MAX_CHANNELS:
        raise ValueError(f"{weight.shape[1]} channels are more than the limit of {MAX_CHANNELS}")
    return SearchProblem.from_matrix(to_matrix(scores(weight.detach(), saliency)))


def _as_weight(item: Any) -> torch.Tensor:
    """``item`` as a tensor of numbers that can be scored; a copy where it is not a tensor of floats."""
    if isinstance(item, torch.Tensor):
        scorable = item.is_complex() or (item.is_floating_point() and item.dtype.itemsize > 1)
        return item if scorable else item.double()
    array = np.array(item)
    if array.dtype.kind not in "fiubc":
        raise ValueError(
            "a permutation is searched for a weight, a matrix of numbers (torch or numpy) or a SearchProblem, got "
            f"{type(item).__name__}"
        )
    if array.dtype.kind != "c" and array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    return torch.from_numpy(array)


def check_search(
    pattern: str | Pattern, strategy: str | Strategy, backend: str, time_limit: float | None
) -> tuple[Pattern, Strategy]:
    """The pattern and the strategy of a search. Raises ``ValueError`` for options that no problem can be searched with."""
    parsed, chosen = _as_pattern(pattern), _as_strategy(strategy)
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be positive seconds, got {time_limit}")
    check_backend(parsed, backend)
    if backend != "auto" and not parsed.both_ways:
        resolve(backend)
    return parsed, chosen


def _as_pattern(pattern: str | Pattern) -> Pattern:
    parsed = Pattern.parse(pattern)
    n, m = parsed.require_nm("a permutation search")
    if parsed.calculator not in ("1d", "2d_best"):
        raise ValueError(
            f"a permutation search scores masks along the input channels ('{n}:{m}') or both ways ('m{m}n{n}_2d_best'), "
            f"not '{parsed}'"
        )
    return parsed


def _as_strategy(strategy: str | Strategy) -> Strategy:
    chosen = STRATEGIES.resolve(strategy)
    if isinstance(chosen, type) or not callable(chosen):
        raise ValueError(
            f"a strategy is a name with options such as 'stripe_groups,8,100', or an object such as ChannelSwap(100), got "
            f"{strategy!r}"
        )
    return chosen


def _until_interrupted(search: Search, work: Callable[[Search], object]) -> None:
    """Do ``work``, unless there is or was an interrupt: then the best order so far is what was asked for."""
    if search.interrupted:
        return
    try:
        work(search)
    except KeyboardInterrupt:
        search.interrupted = True


def warm_up(strategy: str | Strategy, pattern: str | Pattern = "2:4", backend: str = "auto") -> float:
    """Have what a search by ``strategy`` needs compiled, once on a machine; returns the seconds that it took now.

    A ``time_limit`` never counts this. For clocks of one's own: call it before they start. Strategies that are not among
    those named here are left alone.
    """
    began = time.perf_counter()
    chosen = _as_strategy(strategy)
    if type(chosen) in map(STRATEGIES.get, STRATEGIES.names()):
        _warm_up(_cheap(chosen), Pattern.parse(pattern), backend)  # type: ignore[arg-type]
    return time.perf_counter() - began


def _cheap(strategy: Strategy) -> Strategy:
    """``strategy`` with none of its options above the usual: the same code, soon done."""
    usual = {
        field.name: max(field.default, _ESCAPES)
        for field in dataclasses.fields(strategy)  # type: ignore[arg-type]
        if isinstance(field.default, int)
    }
    fewer = {name: min(getattr(strategy, name), most) for name, most in usual.items()}
    return dataclasses.replace(strategy, **fewer)  # type: ignore[type-var]


@lru_cache(maxsize=256)
def _warm_up(strategy: Strategy, pattern: Pattern, backend: str) -> None:
    _, m = pattern.require_nm("a permutation search")
    # Exhaustive search refuses what is enough groups for the others to be of use; a proof for large groups is no toy.
    for groups in (8, 4) if m <= 4 else (3, 2):
        scores = np.random.default_rng(0).random((8, groups * m), np.float32)
        with contextlib.suppress(ValueError):
            search = _start(SearchProblem.from_matrix(scores), pattern, 0, backend, time.perf_counter(), None, None)
            strategy(search)
            return


def _start(
    problem: SearchProblem,
    pattern: Pattern,
    seed: int,
    backend: str,
    started: float,
    time_limit: float | None,
    callback: Callback | None,
) -> Search:
    matrix = _loaded(problem, pattern, backend)
    exact = None if problem.is_wholly_searchable(matrix.m) else lambda order: problem.retained(order, pattern)
    return Search(matrix, np.random.default_rng(seed), started, time_limit, exact, callback)


def check_backend(pattern: Pattern, backend: str) -> None:
    """Raise ``ValueError`` for a backend that cannot search orders for ``pattern`` on any machine."""
    if pattern.both_ways and backend not in ("auto", "cpu"):
        raise ValueError(f"orders for 2d masks are searched by backend 'cpu' (or 'auto') only, not {backend!r}")


def _backend(problem: SearchProblem, pattern: Pattern, backend: str) -> str:
    """The backend that a search of ``problem`` runs on."""
    if pattern.both_ways:
        return "cpu"
    rows = sum(len(consumer.saliency) for consumer in problem.consumers)
    return resolve(backend, Size(rows, problem.size, pattern.require_nm("a permutation search")[1]))


def _loaded(problem: SearchProblem, pattern: Pattern, backend: str) -> LoadedMatrix:
    n, m = pattern.require_nm("a permutation search")
    values = problem.searchable(m).T
    if not pattern.both_ways:
        return load(values, n, m, backend)
    from sparselab.ops import transposable_matrix

    return transposable_matrix.load(values, n, m)


def _result(
    search: Search,
    problem: SearchProblem,
    pattern: Pattern,
    strategy: str,
    backend: str,
    seed: int,
    seconds: float,
    bound: bool,
) -> SearchResult:
    baseline, retained = problem.retained(None, pattern), problem.retained(search.best, pattern)
    order: NDArray[np.int64] = search.best
    if retained <= baseline:  # what the search took for a gain was rounding
        order, retained = np.arange(problem.size), baseline
    constant = baseline - search.baseline * search.matrix.scale
    ideal = problem.ideal(pattern)
    if ideal - baseline <= _ROUNDING * ideal:
        ideal = baseline  # nothing to gain, up to the rounding of the sums
    upper_bound = ideal if bound else None
    if search.upper_bound is not None:
        upper_bound = max(retained, min(ideal, search.upper_bound * search.matrix.scale + constant))
    history = tuple((at, value * search.matrix.scale + constant) for at, value in search.history)
    return SearchResult(
        order=order,
        baseline=baseline,
        retained=retained,
        ideal=ideal,
        seconds=seconds,
        evaluations=search.evaluations,
        strategy=strategy,
        backend=backend,
        pattern=str(pattern),
        seed=seed,
        history=history,
        upper_bound=upper_bound,
        interrupted=search.interrupted,
    )


@contextmanager
def _progress_bar(wanted: bool, time_limit: float | None, callback: Callback | None) -> Iterator[Callback | None]:
    """``callback``, with a tqdm bar of seconds in front of it where one is ``wanted``; in a file once a second."""
    if not wanted:
        yield callback
        return
    from tqdm import tqdm

    pace = 0.1 if sys.stderr.isatty() else 1.0
    looks = "{l_bar}{bar}| {elapsed}{postfix}"
    with tqdm(total=time_limit, unit="s", bar_format=looks, mininterval=pace, miniters=0) as bar:

        def report(seconds: float, retained: float) -> None:
            bar.set_postfix_str(f"retained {retained:.6g}", refresh=False)
            bar.update((seconds if time_limit is None else min(seconds, time_limit)) - bar.n)
            if callback is not None:
                callback(seconds, retained)

        yield report
