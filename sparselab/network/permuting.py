"""``permute``: find the axes of a network, search an order for each, apply all of them at once, measure."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sparselab import saliency as saliency_module
from sparselab.eligibility import LayerWeight, layer_weights, why_not
from sparselab.network.analysis import Analysis, Member, analyse
from sparselab.network.axes import Indices, leaves_of, reasons_of
from sparselab.network.both_ways import BothWays, touches
from sparselab.network.freedom import Axis, Orders, free_axes
from sparselab.network.interrupts import interrupts_noticed
from sparselab.network.objective import Consumer, Objective, consumers_of, objectives
from sparselab.network.plan import Plan
from sparselab.network.ranks import on_one_rank
from sparselab.network.report import COLUMNS, PermutationReport
from sparselab.network.tracing import UntraceableError, unwrap
from sparselab.network.verify import Verdict, Witness, verify
from sparselab.patterns import Pattern
from sparselab.permutation import SearchProblem, SearchResult, search_permutation
from sparselab.permutation.problem import LARGEST_BLOCK, MAX_CHANNELS
from sparselab.permutation.strategy import Strategy
from sparselab.saliency import ModelSaliency


def permute(
    model: nn.Module,
    example_inputs: Any,
    pattern: str | Pattern = "2:4",
    *,
    strategy: str | Strategy = "auto",
    saliency: ModelSaliency = "magnitude",
    optimizer: torch.optim.Optimizer | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    seed: int = 0,
    backend: str = "auto",
    verify: bool = True,
    strict: bool = False,
) -> PermutationReport:
    """Put the channels of a whole network in the order that lets ``pattern`` keep the most; the function stays the same.

    In place. ``example_inputs`` is what the model takes: a tensor, a tuple of positional arguments or a dict of keyword
    arguments. The model is traced on them once (``torch.export``, evaluation mode); every set of channels that can be
    reordered without changing the outputs is found, searched and moved through all tensors that it touches: weights,
    biases, statistics, gradients and the state of ``optimizer``. Parameters remain the same objects.

    ``include`` and ``exclude`` choose the weights whose retained saliency counts, by names of weights or modules with
    ``*`` and ``?``; ``saliency`` may be a mapping from weight name to saliency. ``strategy``, ``seed`` and ``backend``
    are those of ``search_permutation``: the same seed gives the same orders.

    ``verify=True`` compares outputs before and after on the examples and on random inputs like them, in float64 on a
    copy where memory allows; an axis that changes them is found and left where it was. A model that cannot be traced is
    left alone, and the report says which line of it is to blame; ``strict=True`` raises ``RuntimeError`` then, and when
    an axis had to be rolled back. An interruption leaves the model as it was or wholly permuted. Where a process group is
    initialised every rank has to call this: rank 0 searches, and all ranks apply its plan.

    For a 2d pattern (``"m4n2_2d_best"``, M up to 4) a weight's rows count as its columns do: axes are searched in turn, from
    the better of the orders for ``"2:4"`` and none, until that gains nothing more (``network/both_ways.py``).

    Raises ``ValueError`` for patterns that no order can be searched for, for names in ``include`` that match
    nothing, and for a model that is masked already.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> report = permute(model, torch.randn(2, 8))
    >>> report.frame[["axis", "size", "consumers"]].values.tolist()
    [['0.weight:0', 16, ('2.weight',)], ['0.weight:1', 8, ('0.weight',)]]
    """
    parsed = _searchable_pattern(pattern)
    inner = unwrap(model)
    layers = _chosen_layers(inner, parsed, include, exclude)
    search = _Settings(parsed, strategy, saliency, seed, backend)
    report = on_one_rank(lambda: _found(inner, example_inputs, layers, search, verify, strict))
    report.plan.apply(inner, optimizer)
    return report


def _found(
    model: nn.Module,
    example_inputs: Any,
    layers: Sequence[LayerWeight],
    settings: _Settings,
    verify: bool,
    strict: bool,
) -> PermutationReport:
    """The report of what is to be done; ``model`` itself is as before."""
    started = time.perf_counter()
    try:
        analysis = analyse(model, example_inputs)
    except UntraceableError as error:
        if strict:
            raise
        return _untraceable(layers, settings.pattern, str(error), time.perf_counter() - started)
    consumers = consumers_of(analysis, layers)
    axes = free_axes(analysis)
    if settings.pattern.both_ways:
        searches, pinned = _search_both_ways(analysis, axes, consumers, settings)
    else:
        searches, pinned = _search_all(axes, consumers, settings), {}
    orders = {search.axis: search.orders for search in searches if search.status == "permuted"}
    verdict = _verified(model, example_inputs, analysis, orders, settings.seed) if verify and orders else None
    if verdict is not None:
        for search in searches:
            if search.axis in verdict.blamed:
                search.status, search.reason = "rolled_back", "moving it changed the model's outputs"
        if verdict.blamed and strict:
            raise RuntimeError(f"{len(verdict.blamed)} axes changed the model's outputs; the model is as it was")
        orders = {axis: order for axis, order in orders.items() if axis not in verdict.blamed}
    names = _axis_names(analysis, [search.axis for search in searches])
    return PermutationReport(
        _frame(searches, consumers, names, layers, pinned),
        _weights(searches, consumers, layers),
        Plan.from_orders(analysis, orders),
        str(settings.pattern),
        *(
            (verdict.difference.absolute, verdict.difference.relative, verdict.tolerance)
            if verdict
            else (math.nan,) * 3
        ),
        seconds=time.perf_counter() - started,
    )


# ------------------------------------------------------------------------------------------------------------ choice


def searchable(pattern: Pattern) -> bool:
    """Whether orders can be judged by the masks of ``pattern`` itself: those along the channels, and small 2d ones."""
    return pattern.calculator == "1d" or (pattern.calculator == "2d_best" and (pattern.m or 0) <= LARGEST_BLOCK)


def _searchable_pattern(pattern: str | Pattern) -> Pattern:
    parsed = Pattern.parse(pattern)
    n, m = parsed.require_nm("permute")
    if not searchable(parsed):
        raise ValueError(
            f"permute searches orders for '{n}:{m}' and, with M up to {LARGEST_BLOCK}, for 'm{m}n{n}_2d_best'; got "
            f"'{parsed}', which the order for '{n}:{m}' helps too"
        )
    return parsed


def _chosen_layers(
    model: nn.Module, pattern: Pattern, include: Iterable[str] | None, exclude: Iterable[str] | None
) -> list[LayerWeight]:
    wanted, unwanted = (None if include is None else list(include)), list(exclude or ())
    layers = list(layer_weights(model))
    for name in wanted or ():
        if not any(layer.matches([name]) for layer in layers):
            raise ValueError(f"include names {name!r}, which matches no weight or module of the model")
    for layer in layers:
        if hasattr(layer.module, f"__{layer.attribute}_mma_mask"):
            raise ValueError(f"{layer.name!r} is masked already: permute first, then prune (finalize() removes masks)")
    return [
        layer
        for layer in layers
        if why_not(layer.module, layer.attribute, pattern) is None
        and (wanted is None or layer.matches(wanted))
        and not layer.matches(unwanted)
    ]


# ------------------------------------------------------------------------------------------------------------ search


@dataclass
class _Search:
    """What was found for one axis."""

    axis: Axis
    consumers: tuple[Consumer, ...]
    orders: Indices
    baseline: float = 0.0
    retained: float = 0.0
    ideal: float = 0.0
    seconds: float = 0.0
    status: str = "kept"
    reason: str = "no better order was found"

    def add(self, objective: Objective, result: SearchResult, m: int) -> None:
        """One context's result."""
        order = objective.order(result.order)
        self.orders[objective.context] = order
        self.baseline += result.baseline
        self.retained += result.retained
        self.ideal += result.ideal
        self.seconds += result.seconds
        if (order != np.arange(self.axis.size)).any():
            self.status, self.reason = "permuted", ""
        elif self.status == "kept" and not len(objective.problem.searchable(m)):
            self.reason = f"its units do not fill groups of {m} in any weight that reads it"

    @property
    def efficacy(self) -> float:
        """Percent of the way to the ideal; NaN where no sparse weight reads the axis."""
        if math.isnan(self.baseline):
            return math.nan
        room = self.ideal - self.baseline
        return 100.0 * (self.retained - self.baseline) / room if room > 1e-12 * abs(self.ideal) else 100.0


@dataclass(frozen=True)
class _Settings:
    """How to search."""

    pattern: Pattern
    strategy: str | Strategy
    saliency: ModelSaliency
    seed: int
    backend: str

    @property
    def m(self) -> int:
        """The size of a group."""
        return self.pattern.require_nm("permute")[1]

    def scores(self, layer: LayerWeight) -> Tensor:
        """The scores of a layer's weight; ``ValueError`` where one is not finite."""
        found = saliency_module.scores(layer.weight.detach(), saliency_module.for_layer(self.saliency, layer.name))
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"the scores of {layer.name!r} are not all finite: is the weight?")
        return found

    def search(self, problem: SearchProblem, number: int) -> SearchResult:
        """Search one problem, with a seed of its own."""
        return search_permutation(
            problem, self.pattern, strategy=self.strategy, seed=self.seed + number, backend=self.backend
        )


def _search_all(axes: Sequence[Axis], consumers: Sequence[Consumer], settings: _Settings) -> list[_Search]:
    """An order for every axis that a consumer reads."""
    searches: list[_Search] = []
    with interrupts_noticed() as raise_if_interrupted:
        for number, axis in enumerate(axes):
            readers = tuple(consumer for consumer in consumers if consumer.reads(axis))
            if not readers:
                continue
            searches.append(search := _Search(axis, readers, axis.identity()))
            if axis.size > MAX_CHANNELS:
                search.reason = f"{axis.size} units are more than the {MAX_CHANNELS} that can be searched"
                continue
            for objective in objectives(axis, readers, settings.scores, settings.m):
                result = settings.search(objective.problem, 1_000 * number + objective.context)
                search.add(objective, result, settings.m)
                raise_if_interrupted()
    return searches


def _search_both_ways(
    analysis: Analysis, axes: Sequence[Axis], consumers: Sequence[Consumer], settings: _Settings
) -> tuple[list[_Search], dict[str, tuple[float, float]]]:
    """An order for every axis that moves a consumer's columns or rows, and what each of them retains before and after."""
    along = replace(settings, pattern=Pattern.nm(*settings.pattern.require_nm("permute")))
    # Searching an axis is one step of many here, so a descent does: the next round goes on where it ended.
    step = replace(settings, strategy="channel_swap") if settings.strategy == "auto" else settings
    by_axis = {search.axis: search for search in _search_all(axes, consumers, along)}
    weights = BothWays(
        analysis, axes, consumers, {c.name: settings.scores(c.layer) for c in consumers}, settings.pattern
    )
    none = {axis: axis.identity() for axis in axes}
    with interrupts_noticed() as raise_if_interrupted:

        def search_one(problem: SearchProblem, number: int) -> Indices:
            raise_if_interrupted()
            return step.search(problem, 1_000 * number).order

        start = none | {axis: search.orders for axis, search in by_axis.items()}
        orders = weights.alternate([none, start], search_one)
    searches = []
    for axis in axes:
        if not any(touches(axis, consumer) for consumer in consumers):
            continue
        found = by_axis.get(axis) or _Search(axis, (), axis.identity(), baseline=math.nan)
        moved = bool((orders[axis] != axis.identity()).any())
        search = _Search(axis, found.consumers, orders[axis], math.nan, math.nan, math.nan, found.seconds)
        if moved:
            search.status, search.reason = "permuted", ""
        if search.consumers:
            search.baseline, search.ideal = weights.worth(axis, none)
            search.retained, _ = weights.worth(axis, orders)
        searches.append(search)
    return searches, {c.name: (weights.retained(none, [c]), weights.retained(orders, [c])) for c in consumers}


def _verified(model: nn.Module, example_inputs: Any, analysis: Analysis, orders: Orders, seed: int) -> Verdict:
    witness = Witness(model, example_inputs, analysis.lowest, seed)

    @contextlib.contextmanager
    def moved(axes: Sequence[Axis]) -> Iterator[None]:
        plan = Plan.from_orders(analysis, {axis: orders[axis] for axis in orders if axis in set(axes)})
        plan.apply(witness.model)
        try:
            yield
        finally:
            plan.inverse().apply(witness.model)

    return verify(witness, list(orders), moved)


# ------------------------------------------------------------------------------------------------------------ report


def _axis_names(analysis: Analysis, axes: Sequence[Axis]) -> dict[Axis, tuple[str, ...]]:
    """The ``"tensor:dim"`` in which each axis occurs, in the model's order."""
    owner = {leaf: axis for axis in axes for leaf in axis.leaves}
    found: dict[Axis, dict[str, None]] = {axis: {} for axis in axes}
    for member in analysis.members:
        for dim, made_of in enumerate(member.dims):
            for leaf in leaves_of(made_of):
                if leaf in owner:
                    found[owner[leaf]][f"{member.name}:{dim}"] = None
    return {axis: tuple(names) for axis, names in found.items()}


def _frame(
    searches: Sequence[_Search],
    consumers: Sequence[Consumer],
    names: Mapping[Axis, tuple[str, ...]],
    layers: Sequence[LayerWeight],
    pinned: Mapping[str, tuple[float, float]],
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    for search in searches:
        name = names[search.axis][0]
        taken[name] = taken.get(name, 0) + 1
        rows.append(
            {
                "axis": name if taken[name] == 1 else f"{name}#{taken[name]}",
                "size": search.axis.size,
                "members": names[search.axis],
                "consumers": tuple(consumer.name for consumer in search.consumers),
                "baseline": search.baseline,
                "retained": search.baseline if search.status == "rolled_back" else search.retained,
                "ideal": search.ideal,
                "efficacy": 0.0 if search.status == "rolled_back" else search.efficacy,
                "seconds": search.seconds,
                "status": search.status,
                "reason": search.reason,
            }
        )
    reading = {consumer.name for search in searches for consumer in search.consumers}
    members = {consumer.name: consumer.member for consumer in consumers}
    for layer in layers:
        if layer.name not in reading:
            row = _pinned_row(layer, members.get(layer.name))
            row["baseline"], row["retained"] = pinned.get(layer.name, (math.nan, math.nan))  # its rows may have moved
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _pinned_row(layer: LayerWeight, member: Member | None, reason: str | None = None) -> dict[str, Any]:
    if reason is None:
        reasons = reasons_of(member.dims[layer.channel_dim]) if member else []
        reason = "; ".join(reasons) or "every index of it means something else"
    return {
        "axis": f"{layer.name}:{layer.channel_dim}",
        "size": layer.weight.shape[layer.channel_dim],
        "members": (),
        "consumers": (layer.name,),
        "baseline": math.nan,
        "retained": math.nan,
        "ideal": math.nan,
        "efficacy": math.nan,
        "seconds": 0.0,
        "status": "pinned",
        "reason": reason,
    }


_BEST_FIRST = ("permuted", "kept", "rolled_back", "pinned")


def _weights(searches: Sequence[_Search], consumers: Sequence[Consumer], layers: Sequence[LayerWeight]) -> pd.DataFrame:
    members = {consumer.name: consumer.member for consumer in consumers}
    found: dict[str, tuple[str, str]] = {}
    for search in searches:
        for consumer in search.consumers:
            mine = (search.status, search.reason)
            found[consumer.name] = min(found.get(consumer.name, mine), mine, key=lambda s: _BEST_FIRST.index(s[0]))
    rows = []
    for layer in layers:
        status, reason = found.get(layer.name) or ("pinned", _pinned_row(layer, members.get(layer.name))["reason"])
        rows.append({"weight": layer.name, "numel": layer.weight.numel(), "status": status, "reason": reason})
    return pd.DataFrame(rows, columns=["weight", "numel", "status", "reason"])


def _untraceable(layers: Sequence[LayerWeight], pattern: Pattern, reason: str, seconds: float) -> PermutationReport:
    rows = [_pinned_row(layer, None, reason) for layer in layers]
    weights = [
        {"weight": layer.name, "numel": layer.weight.numel(), "status": "pinned", "reason": reason} for layer in layers
    ]
    return PermutationReport(
        pd.DataFrame(rows, columns=COLUMNS),
        pd.DataFrame(weights, columns=["weight", "numel", "status", "reason"]),
        pattern=str(pattern),
        seconds=seconds,
        untraceable=reason,
    )
