"""Searches as the widget runs them: watched while they run, compared, kept as plans. Plain functions, no widget in sight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparselab import saliency as saliency_module
from sparselab.core import measures
from sparselab.core.layers import LayerWeight, layer_weights
from sparselab.core.moves import Move
from sparselab.core.patterns import Pattern
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks import create_mask
from sparselab.masks.eligibility import why_not
from sparselab.network.gathers import Gather, why_not_gathered
from sparselab.network.named_axes import NetworkAxes
from sparselab.network.plan import Plan
from sparselab.permutation import SearchProblem, SearchResult, search_permutation
from sparselab.reports import magnitude_report
from sparselab.saliency import ModelSaliency, Saliency, for_layer

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
    """What is searched: ``weights`` as they are drawn, ``(rows, channels)``, the ``scores`` that mask them, the ``problem``.

    Of an axis, whose order several weights share, the weights that count are stacked, and what is drawn are their scores.
    ``plan`` says what an order of it means for the network, and raises ``ValueError`` where it cannot be followed.
    """

    name: str
    weights: NDArray[Any]
    scores: NDArray[Any]
    problem: SearchProblem
    consumers: tuple[str, ...]
    about: str
    plan: Callable[[NDArray[np.int64]], Plan]

    @classmethod
    def of(cls, name: str, weight: Tensor, channel_dim: int = 1, saliency: Saliency = "magnitude") -> Matrix:
        """The matrix of a weight by itself, scored by ``saliency``; a plan moves what is called ``name``."""
        shape, dim = tuple(weight.shape), channel_dim % weight.ndim
        weight = weight.detach().cpu().float()
        scores = to_matrix(saliency_module.scores(weight, saliency), channel_dim)
        rows, channels = scores.shape
        return cls(
            name=name,
            weights=to_matrix(weight, channel_dim).numpy(),
            scores=scores.numpy(),
            problem=SearchProblem.from_matrix(scores),
            consumers=(name,),
            about=f"{name}: {rows:,} rows x {channels:,} channels.",
            plan=lambda order: Plan((Move((name,), shape, dim, dim, order),)),
        )

    @classmethod
    def of_layer(cls, model: nn.Module, layer: LayerWeight, saliency: ModelSaliency = "magnitude") -> Matrix:
        """The matrix of a layer of ``model``; a plan has the layer re-index its input, as ``orders="gathered"`` does."""
        found = cls.of(layer.name, layer.weight, layer.channel_dim, for_layer(saliency, layer.name))
        return replace(found, plan=partial(_layer_plan, model, layer))

    @classmethod
    def of_axis(
        cls, axes: NetworkAxes, name: str, pattern: str, saliency: ModelSaliency = "magnitude"
    ) -> Matrix | None:
        """The matrix of an axis of a network; ``None`` where its channels fill no groups of a weight that can be pruned."""
        axis = axes.problem(name, pattern, saliency)
        if axis is None:
            return None
        problem = axis.problem
        scores = problem.searchable(Pattern.parse(pattern).require_nm("a permutation search")[1])
        if not len(scores):
            return None
        about = (
            f"{axis.name}: one order of {problem.size:,} channels for {len(axis.consumers)} "
            f"{'weights' if len(axis.consumers) > 1 else 'weight'} ({', '.join(axis.consumers)}; {len(scores):,} rows), "
            f"with which {len(axis.members)} dimensions of tensors move."
        )
        return cls(axis.name, scores, scores, problem, axis.consumers, about, axis.plan)

    @cached_property
    def total(self) -> float:
        """The saliency of everything."""
        return sum(self.problem.total_each())

    def lost_percent(self, retained: float) -> float:
        """Saliency lost where ``retained`` is left, in percent."""
        return measures.lost_percent(retained, self.total)

    def mask(self, order: NDArray[np.int64], pattern: str) -> NDArray[np.bool_]:
        """What ``pattern`` keeps with the channels in ``order``."""
        return create_mask(torch.from_numpy(self.scores[:, order]), pattern).numpy()

    def groups_frame(self, order: NDArray[np.int64], pattern: str) -> pd.DataFrame:
        """A row for each group of channels in ``order``: which ``channels`` they are, and ``lost_percent`` of them."""
        scores, groups = self.scores[:, order], order.reshape(-1, Pattern.parse(pattern).require_nm("an order")[1])
        totals, kept = (
            each.reshape(len(scores), *groups.shape).sum((0, 2), dtype=np.float64)
            for each in (scores, scores * self.mask(order, pattern))
        )
        lost = [measures.lost_percent(float(left), float(total)) for left, total in zip(kept, totals)]
        return pd.DataFrame({"channels": [", ".join(map(str, group)) for group in groups], "lost_percent": lost})

    def consumers_frame(self, result: SearchResult) -> pd.DataFrame:
        """A row for each weight that the order of ``result`` is for: percent lost before, after and by the ideal."""
        problem, pattern = self.problem, result.pattern
        kept = (problem.retained_each(None, pattern), problem.retained_each(result.order, pattern))
        sums = zip(self.consumers, problem.total_each(), *kept, problem.ideal_each(pattern), strict=True)
        return pd.DataFrame([_layer_row(*each) for each in sums], columns=list(LAYER_COLUMNS))


def why_no_plan(model: nn.Module, layer: LayerWeight) -> str | None:
    """Why an order of ``layer`` by itself cannot be followed by re-indexing its input, or ``None``."""
    names = [name for name, each in model.named_parameters(remove_duplicate=False) if each is layer.weight]
    shared = f"its weight is also {names[1]}, whose layer has the same order then" if len(names) > 1 else None
    return shared or why_not_gathered(layer)


def _layer_plan(model: nn.Module, layer: LayerWeight, order: NDArray[np.int64]) -> Plan:
    """The columns of a layer in ``order``, and its input re-indexed to fit: the network computes what it did."""
    if (reason := why_no_plan(model, layer)) is not None:
        raise ValueError(
            f"an order of {layer.name} by itself makes no plan: {reason}. Give example_inputs=, and choose the axis"
        )
    dim = layer.dimension
    move = Move((layer.name,), tuple(layer.weight.shape), dim, dim, order)
    return Plan((move,), (Gather(layer.name, order),))


LAYER_COLUMNS = ("layer", "lost_percent", "permuted_lost_percent", "ideal_lost_percent", "efficacy")


def _layer_row(name: str, total: float, baseline: float, retained: float, ideal: float) -> dict[str, Any]:
    lost = [measures.lost_percent(kept, total) for kept in (baseline, retained, ideal)]
    return dict(zip(LAYER_COLUMNS, [name, *lost, measures.efficacy(retained, baseline, ideal)]))


def run_search(
    matrix: Matrix, pattern: str, trace: Trace, check: Check, *, seconds: float | None = None, seed: int = 0
) -> None:
    """Search the order of ``matrix`` by ``trace.strategy``, writing into ``trace`` as it goes.

    Its points never fall. What is heard on the way is a float32 sum, rounded down; the result's history, which is
    counted to the end, takes its place. ``check`` is called at every candidate; what it raises to end the search (a ``KeyboardInterrupt``) leaves the best
    order so far as the result.
    """
    baseline, ideal = matrix.problem.retained(None, pattern), matrix.problem.ideal(pattern)

    def heard(at: float, retained: float) -> None:
        value = measures.efficacy(retained, baseline, ideal)
        if value > trace.points[-1][1]:
            trace.points.append((at, value))
        check()

    result = search_permutation(
        matrix.problem, pattern, strategy=trace.strategy, seed=seed, time_limit=seconds, callback=heard
    )
    improved = [(at, measures.efficacy(kept, result.baseline, result.ideal)) for at, kept in result.history[1:]]
    trace.points = [*trace.points[:1], *improved, (result.seconds, result.efficacy)]
    trace.result = result


def traces_frame(traces: Sequence[Trace]) -> pd.DataFrame:
    """``strategy, seconds, efficacy``: a row at every improvement, thinned to what a picture can show."""
    rows = []
    for trace in traces:
        points = list(trace.points)
        step = -(-len(points) // _MOST_POINTS)
        rows += [(trace.strategy, *point) for point in [*points[:-1:step], points[-1]]]
    return pd.DataFrame(rows, columns=["strategy", "seconds", "efficacy"])


def results_frame(matrix: Matrix, traces: Sequence[Trace]) -> pd.DataFrame:
    """One row per finished search: ``strategy, efficacy, lost_percent, permuted_lost_percent, ideal_lost_percent,
    moved_percent, seconds, evaluations``. ``moved_percent`` is the share of channels whose group has other members now, in percent.
    """
    rows = [
        {
            "strategy": trace.strategy,
            "efficacy": result.efficacy,
            "lost_percent": matrix.lost_percent(result.baseline),
            "permuted_lost_percent": matrix.lost_percent(result.retained),
            "ideal_lost_percent": matrix.lost_percent(result.ideal),
            "moved_percent": moved_percent(result.order, Pattern.parse(result.pattern).require_nm("an order")[1]),
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


@dataclass(eq=False)
class NetworkSearch:
    """A search of a whole network, running or finished: ``done`` of the orders ``of`` which it consists.

    There is one row per layer; ``doing`` is what is searched now, ``plans`` what was found, and
    ``left_out`` has the reasons of the layers that cannot follow an order of their own.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    of: int = 0
    doing: str = ""
    plans: list[Plan] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each layer: ``LAYER_COLUMNS``, and ``total``, its saliency."""
        return pd.DataFrame(list(self.rows), columns=[*LAYER_COLUMNS, "total"])

    @property
    def plan(self) -> Plan:
        """What was found so far, in one plan."""
        moves = tuple(move for plan in self.plans for move in plan.moves)
        return Plan(moves, tuple(gather for plan in self.plans for gather in plan.gathers))


def search_layers(
    model: nn.Module,
    pattern: str,
    strategy: str,
    found: NetworkSearch,
    check: Check,
    *,
    saliency: ModelSaliency = "magnitude",
    seconds: float | None = None,
    seed: int = 0,
) -> None:
    """Search every eligible layer of ``model`` by itself, writing into ``found`` what each loses before and after.

    By itself: in the network, layers that read the same channels must share an order, so this is what permuting could
    win at most. ``seconds`` is for each.
    """
    layers = [layer for layer in layer_weights(model) if why_not(layer.module, layer.attribute, pattern) is None]
    found.of = len(layers)
    for layer in layers:
        found.doing = layer.name
        matrix, trace = Matrix.of_layer(model, layer, saliency), Trace(strategy)
        run_search(matrix, pattern, trace, check, seconds=seconds, seed=seed)
        check()
        result = trace.result
        assert result is not None
        row = _layer_row(layer.name, matrix.total, result.baseline, result.retained, result.ideal)
        found.rows.append(row | {"total": matrix.total})
        if (reason := why_no_plan(model, layer)) is None:
            found.plans.append(matrix.plan(result.order))
        else:
            found.left_out[layer.name] = reason
        found.done += 1


def search_axes(
    axes: NetworkAxes,
    pattern: str,
    strategy: str,
    found: NetworkSearch,
    check: Check,
    *,
    saliency: ModelSaliency = "magnitude",
    seconds: float | None = None,
    seed: int = 0,
) -> None:
    """Search every axis of a network, writing into ``found``, a row for each eligible layer, what it loses then.

    What ``permute`` would win: layers that read the same channels share an order. ``seconds`` is for each.
    """
    report = magnitude_report(axes.model, pattern, saliency=saliency, callback=lambda *_: check(), progress=False)
    report = report[report["eligible"]].set_index("layer")
    total, baseline, ideal = (report[name].to_dict() for name in ("total", "retained", "ideal"))
    places = {str(name): place for place, name in enumerate(report.index)}
    retained, searched = dict(baseline), set[str]()

    def row(name: str) -> dict[str, Any]:
        found = _layer_row(name, total[name], baseline[name], retained[name], ideal[name]) | {"total": total[name]}
        # Of a layer that is still to come nobody knows whether there is anything to win.
        return found if name in searched else found | {"permuted_lost_percent": math.nan, "efficacy": math.nan}

    found.rows[:], found.of = map(row, places), len(axes.named)
    for found.done, name in enumerate(axes.named):
        check()
        found.doing = name
        matrix, trace = Matrix.of_axis(axes, name, pattern, saliency), Trace(strategy)
        if matrix is None:
            continue
        run_search(matrix, pattern, trace, check, seconds=seconds, seed=seed)
        assert trace.result is not None
        found.plans.append(matrix.plan(trace.result.order))
        before, after = (matrix.problem.retained_each(order, pattern) for order in (None, trace.result.order))
        for consumer, old, new in zip(matrix.consumers, before, after, strict=True):
            retained[consumer] += new - old
            searched.add(consumer)
            found.rows[places[consumer]] = row(consumer)
    searched |= set(places)  # the others stand in no order that could be changed
    found.rows[:], found.done = map(row, places), found.of
