"""``search_permutation``: from a matrix and a strategy's name to the best order found."""

from __future__ import annotations

import time

import torch

from sparselab.core.keywords import STRATEGY, instead
from sparselab.core.patterns import Pattern
from sparselab.masks import AnyPattern, searched_pattern
from sparselab.permutation.coercion import Searchable, as_problem
from sparselab.permutation.judges import judge_of
from sparselab.permutation.objectives import Objective, by_errors, problem_of, require_no_saliency
from sparselab.permutation.problem import SearchProblem
from sparselab.permutation.result import SearchResult
from sparselab.permutation.searching import SearchOptions, run_search
from sparselab.permutation.strategy import Callback, Strategy
from sparselab.saliency import Saliency
from sparselab.statistics.second_moments import SecondMoments


@instead(permutation=STRATEGY)
def search_permutation(
    matrix_or_problem: Searchable,
    pattern: AnyPattern = "2:4",
    *,
    strategy: str | Strategy = "auto",
    saliency: Saliency = "magnitude",
    objective: str | Objective | None = None,
    moments: SecondMoments | None = None,
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
    (``"stripe_groups,8,100"``) or a configured object. A mask calculator as ``pattern`` stands for the pattern that it
    is ``searched_as``. A search never hands back an order worse than the one given.

    With an ``objective``, ``"error"`` or ``"updated_error"``, and ``moments``, the second moments of what the weight is
    given, orders are searched for the least error of what it gives (``sparselab.permutation.objectives``). ``retained``
    is a constant less that error, as a share of what the layer gives, ``efficacy`` the percent of it that the order
    saves.

    The same ``seed`` gives the same order, whatever the number of threads, unless ``time_limit`` (seconds) is given:
    then the search ends after that long, and what anneals, so ``"auto"`` too, uses all of it (compiling, once on a
    machine, does not count). ``KeyboardInterrupt`` ends it too; either way the best order so far comes back. At every
    candidate ``callback(seconds, retained)`` hears what the best order so far retains, rounded down by what sums of
    float32 may be off (8e-6), so that the result is never below it. ``bound=True`` adds ``upper_bound``.

    ``backend`` is ``"cpu"``, ``"cuda"`` (a GPU, by CuPy; the same orders on integer scores),
    ``"reference"`` (plain numpy) or ``"auto"``, which takes a GPU where there is one to use and the
    problem is large enough, and is in the result.

    With ``"m4n2_2d_best"`` (any N of up to 4) orders are judged by 2d masks, the rows staying where
    they are; so far on the CPU only. A network's rows are columns of what comes before:
    ``sparselab.permute`` searches both.

    Takes up to 2^28 scores and 16,384 channels. Memory, in bytes per score: 4 for the resident
    float32 copy, 1 for its 8-bit shadow, and twice what the scores themselves take while they are
    stacked; tables of swaps add at most 256 MiB, each chain of annealing 4 bytes per pair of groups
    and 2 per group and row (64 MiB and half a byte per score for 2:4 at 16,384 channels).

    Raises ``ValueError`` for scores that are negative or not finite, for channels that do not divide into groups, and
    for unknown names, and for ``"cuda"`` where it cannot be used, before anything is searched.

    >>> import torch
    >>> result = search_permutation(torch.arange(32.0).reshape(4, 8), strategy="channel_swap")
    >>> sorted(result.order.tolist()) == list(range(8)), result.efficacy >= 0
    (True, True)
    >>> x = torch.tensor([[1.0, 1, 0, 0, -1, 0, 1, 0], [0, 0, 1, 1, 0, -1, 0, 1]])  # inputs, token by token
    >>> moments = SecondMoments((x.T @ x)[None], (2,), (1, 8))
    >>> result = search_permutation(torch.ones(1, 8), objective="error", moments=moments)
    >>> round(result.efficacy)  # what cancels can go together, and nothing is lost
    100
    """
    started = time.perf_counter()
    options = SearchOptions(searched_pattern(pattern), strategy, seed, backend, time_limit, bound)
    problem = _problem(matrix_or_problem, saliency, by_errors(objective, moments), moments)
    return run_search(problem, options, started, callback, progress)


def _problem(
    item: Searchable, saliency: Saliency, objective: Objective | None, moments: SecondMoments | None
) -> SearchProblem:
    if objective is None:
        return as_problem(item, saliency)
    require_no_saliency(saliency)
    if not isinstance(item, torch.Tensor):
        raise ValueError(f"an objective judges orders of a weight, a tensor, not of a {type(item).__name__}")
    return problem_of(item, objective, moments)


def check_backend(pattern: str | Pattern, backend: str) -> None:
    """Raise ``ValueError`` for a backend that cannot search orders for ``pattern``, or not here."""
    judge_of(pattern).check_backend(backend)
