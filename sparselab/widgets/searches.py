"""Searches as the widget runs them: watched while they run, compared, kept in a file. Plain functions, no widget in sight."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, nn

from sparselab import measures
from sparselab import saliency as saliency_module
from sparselab.eligibility import layer_weights, why_not
from sparselab.layout import to_matrix
from sparselab.permutation import SearchProblem, SearchResult, search_permutation
from sparselab.saliency import ModelSaliency, Saliency

PATTERNS = ("1:4", "2:4", "3:4", "1:8", "2:8", "4:8", "8:16")
STRATEGIES = (
    "auto",
    "annealed_assignment",
    "anneal",
    "assignment",
    "stripe_groups",
    "channel_swap",
    "random",
    "optimal",
)
"""What the widget offers, of ``sparselab.permutation.STRATEGIES``; others, and options, can be set on it."""

Check = Callable[[], None]
_MOST_POINTS = 400  # of a running search that are drawn


@dataclass(eq=False)
class Trace:
    """One search, running or finished: every improvement as ``(seconds, efficacy)``, and in the end its result."""

    strategy: str
    points: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    result: SearchResult | None = None

    @property
    def efficacy(self) -> float:
        """The best so far."""
        return self.points[-1][1] if self.result is None else self.result.efficacy


@dataclass(frozen=True, eq=False)
class Matrix:
    """What is searched: ``weights`` as they are drawn, ``(rows, channels)``, and the ``problem`` of their saliency."""

    name: str
    weights: NDArray[Any]
    problem: SearchProblem
    total: float

    @classmethod
    def of(cls, name: str, weight: Tensor, channel_dim: int = 1, saliency: Saliency = "magnitude") -> Matrix:
        """The matrix of a layer's weight, scored by ``saliency``."""
        weight = weight.detach().cpu().float()
        scores = to_matrix(saliency_module.scores(weight, saliency), channel_dim)
        problem = SearchProblem.from_matrix(scores)
        return cls(name, to_matrix(weight, channel_dim).numpy(), problem, float(scores.double().sum()))

    def lost_percent(self, retained: float) -> float:
        """Saliency lost where ``retained`` is left, in percent."""
        return 100 * (1 - retained / self.total) if self.total else 0.0


def run_search(
    matrix: Matrix, pattern: str, trace: Trace, check: Check, *, seconds: float | None = None, seed: int = 0
) -> None:
    """Search the order of ``matrix`` by ``trace.strategy``, writing into ``trace`` as it goes.

    ``check`` is called at every candidate; what it raises to end the search (a ``KeyboardInterrupt``) leaves the best
    order so far as the result.
    """
    baseline, ideal = matrix.problem.retained(None, pattern), matrix.problem.ideal(pattern)

    def heard(at: float, retained: float) -> None:
        value = measures.efficacy(retained, baseline, ideal)
        if value > trace.points[-1][1]:
            trace.points.append((at, value))
        check()

    trace.result = search_permutation(
        matrix.problem, pattern, strategy=trace.strategy, seed=seed, time_limit=seconds, callback=heard
    )
    trace.points.append((max(trace.result.seconds, trace.points[-1][0]), trace.result.efficacy))


def warm_up(strategy: str, pattern: str) -> None:
    """Have what ``strategy`` needs compiled: on the first use on a machine that takes seconds, which are not a search's."""
    scores = np.random.default_rng(0).random((8, 8 * int(pattern.split(":")[1])), np.float32)
    search_permutation(scores, pattern, strategy=strategy)


def traces_frame(traces: Sequence[Trace]) -> pd.DataFrame:
    """``strategy, seconds, efficacy``: a row at every improvement, thinned to what a picture can show."""
    rows = []
    for trace in traces:
        points = list(trace.points)
        step = -(-len(points) // _MOST_POINTS)
        rows += [(trace.strategy, *point) for point in [*points[:-1:step], points[-1]]]
    return pd.DataFrame(rows, columns=["strategy", "seconds", "efficacy"])


def results_frame(matrix: Matrix, traces: Sequence[Trace]) -> pd.DataFrame:
    """A row a finished search: ``strategy, efficacy, lost_percent, permuted_lost_percent, ideal_lost_percent,
    moved_percent, seconds, evaluations``. ``moved_percent`` is the share of channels whose group has other members now, in percent.
    """
    rows = [
        {
            "strategy": trace.strategy,
            "efficacy": result.efficacy,
            "lost_percent": matrix.lost_percent(result.baseline),
            "permuted_lost_percent": matrix.lost_percent(result.retained),
            "ideal_lost_percent": matrix.lost_percent(result.ideal),
            "moved_percent": moved_percent(result.order, int(result.pattern.split(":")[1])),
            "seconds": result.seconds,
            "evaluations": result.evaluations,
        }
        for trace in traces
        if (result := trace.result) is not None
    ]
    columns = ["strategy", "efficacy", "lost_percent", "permuted_lost_percent", "ideal_lost_percent"]
    return pd.DataFrame(rows, columns=[*columns, "moved_percent", "seconds", "evaluations"])


def moved_percent(order: NDArray[np.int64], m: int) -> float:
    """The share of channels, in percent, that share their group of ``m`` with other channels than before.

    >>> moved_percent(np.array([4, 5, 6, 7, 3, 2, 1, 0]), 4), moved_percent(np.array([0, 1, 2, 4, 3, 5, 6, 7]), 4)
    (0.0, 100.0)
    """
    groups = (np.sort(order.reshape(-1, m), axis=1) // m).astype(np.int64)
    together = (groups == groups[:, :1]).all(axis=1)
    return 100 * (1 - float(together.mean()))


def best_of(traces: Sequence[Trace]) -> SearchResult | None:
    """The result that retains the most, the first of equals; ``None`` before there is one."""
    results = [trace.result for trace in traces if trace.result is not None]
    return max(results, key=lambda result: result.retained) if results else None


def count_searchable(model: nn.Module, pattern: str) -> int:
    """How many layers ``search_layers`` will go through."""
    return sum(why_not(layer.module, layer.attribute, pattern) is None for layer in layer_weights(model))


def search_layers(
    model: nn.Module,
    pattern: str,
    strategy: str,
    rows: list[dict[str, Any]],
    check: Check,
    *,
    saliency: ModelSaliency = "magnitude",
    seconds: float | None = None,
    seed: int = 0,
) -> None:
    """Search every eligible layer of ``model`` by itself, appending to ``rows`` what each loses before and after.

    By itself: in the network, layers that read the same channels must share an order, so this is what permuting could
    win at most. ``seconds`` is for each.
    """
    for layer in layer_weights(model):
        if why_not(layer.module, layer.attribute, pattern) is not None:
            continue
        scored = saliency_module.for_layer(saliency, layer.name)
        matrix = Matrix.of(layer.name, layer.weight, layer.channel_dim, scored)
        trace = Trace(strategy)
        run_search(matrix, pattern, trace, check, seconds=seconds, seed=seed)
        check()
        result = trace.result
        assert result is not None
        rows.append(
            {
                "layer": layer.name,
                "lost_percent": matrix.lost_percent(result.baseline),
                "permuted_lost_percent": matrix.lost_percent(result.retained),
                "ideal_lost_percent": matrix.lost_percent(result.ideal),
                "efficacy": result.efficacy,
            }
        )


def save_order(path: str | Path, matrix: Matrix, result: SearchResult) -> Path:
    """Write the order and where it comes from as JSON; ``weight[:, order]`` is the permuted weight. Returns the path."""
    path = Path(path)
    kept = {
        "layer": matrix.name,
        "pattern": result.pattern,
        "strategy": result.strategy,
        "seed": result.seed,
        "efficacy": result.efficacy,
        "order": result.order.tolist(),
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return path
