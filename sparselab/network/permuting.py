"""``permute``: find the axes of a network, search an order for each, apply all of them at once, measure."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from sparselab.core.layers import LayerWeight
from sparselab.core.models import unwrap
from sparselab.core.patterns import Pattern
from sparselab.network.analysis import Analysis, Member, analyse
from sparselab.network.axes import reasons_of
from sparselab.network.free_axes import Axis, Orders, free_axes
from sparselab.network.named_axes import axis_members, axis_names, chosen_layers
from sparselab.network.plan import Plan, as_optimizers
from sparselab.network.ranks import on_one_rank
from sparselab.network.report import COLUMNS, PermutationReport
from sparselab.network.search_problems import Consumer, consumers_of
from sparselab.network.searching import AxisSearch, SearchSettings, search_each, search_in_turn
from sparselab.network.tracing import UntraceableError
from sparselab.network.verify import Verdict, Witness, verify
from sparselab.permutation.strategy import Strategy
from sparselab.saliency import ModelSaliency

OWN_DTYPE = "own_dtype"


def permute(
    model: nn.Module,
    example_inputs: Any,
    pattern: str | Pattern = "2:4",
    *,
    strategy: str | Strategy = "auto",
    saliency: ModelSaliency = "magnitude",
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    seed: int = 0,
    backend: str = "auto",
    verify: bool | str = True,
    strict: bool = False,
) -> PermutationReport:
    """Put the channels of a whole network in the order that lets ``pattern`` keep the most; the function stays the same.

    In place. ``example_inputs`` is what the model takes: a tensor, a tuple of positional arguments or a dict of keyword
    arguments. The model is traced on them once (``torch.export``, evaluation mode); every set of channels that can be
    reordered without changing the outputs is found, searched and moved through all tensors that it touches: weights,
    biases, statistics, gradients and the state of ``optimizer`` (one, or several of them). Parameters
    remain the same objects.

    ``include`` and ``exclude`` choose the weights whose retained saliency counts, by names of weights or modules with
    ``*`` and ``?``; ``saliency`` may be a mapping from weight name to saliency. ``strategy``, ``seed`` and ``backend``
    are those of ``search_permutation``: the same seed gives the same orders.

    ``verify=True`` compares outputs before and after on the examples and on random inputs like them, in float64 on a
    copy where memory allows; an axis that changes them is found and left where it was. ``verify="own_dtype"`` makes no copy:
    it compares outputs of the model itself, as far as its dtype can tell. A model that cannot be traced is
    left alone, and the report says which line of it is to blame; ``strict=True`` raises ``RuntimeError`` then, and when
    an axis had to be rolled back. An interruption leaves the model as it was or wholly permuted. Where a process group is
    initialised every rank has to call this: rank 0 searches, and all ranks apply its plan.

    For a 2d pattern (``"m4n2_2d_best"``, M up to 4) a weight's rows count as its columns do: axes are searched in turn, from
    the better of the orders for ``"2:4"`` and none, until that gains nothing more (``network/both_ways.py``).

    Raises ``ValueError`` for patterns that no order can be searched for, for names that match nothing,
    and for a model that is masked already.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> report = permute(model, torch.randn(2, 8))
    >>> report.frame[["axis", "size", "consumers"]].values.tolist()
    [['0.weight:0', 16, ('2.weight',)], ['0.weight:1', 8, ('0.weight',)]]
    """
    if verify not in (True, False, OWN_DTYPE):
        raise ValueError(f"verify is True, False or {OWN_DTYPE!r}, got {verify!r}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"permute takes a torch.nn.Module, got a {type(model).__name__}")
    optimizers = as_optimizers(optimizer)
    settings = SearchSettings(Pattern.parse(pattern), strategy, saliency, seed, backend)
    inner = unwrap(model)
    layers = chosen_layers(inner, settings.pattern, include, exclude)
    report = on_one_rank(lambda: _found(inner, example_inputs, layers, settings, verify, strict))
    report.plan.apply(inner, optimizers)
    return report


def _found(
    model: nn.Module,
    example_inputs: Any,
    layers: Sequence[LayerWeight],
    settings: SearchSettings,
    verify: bool | str,
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
        in_turn = search_in_turn(analysis, axes, consumers, settings)
        searches, before, after = in_turn.searches, in_turn.before, in_turn.after
    else:
        searches, before, after = search_each(axes, consumers, settings), {}, {}
    orders = {search.axis: search.orders for search in searches if search.status == "permuted"}
    verdict = None
    if verify and orders:
        witness = Witness(model, example_inputs, analysis.lowest, settings.seed, copied=verify is True)
        verdict = _verified(witness, analysis, orders)
    if verdict is not None:
        for search in searches:
            if search.axis in verdict.blamed:
                search.status, search.reason = "rolled_back", "moving it changed the model's outputs"
        if verdict.blamed and strict:
            raise RuntimeError(f"{len(verdict.blamed)} axes changed the model's outputs; the model is as it was")
        orders = {axis: order for axis, order in orders.items() if axis not in verdict.blamed}
    members = axis_members(analysis, [search.axis for search in searches])
    return PermutationReport(
        _frame(searches, consumers, members, layers, before, after),
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


def _verified(witness: Witness, analysis: Analysis, orders: Orders) -> Verdict:
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


def _frame(
    searches: Sequence[AxisSearch],
    consumers: Sequence[Consumer],
    moved: Mapping[Axis, tuple[str, ...]],
    layers: Sequence[LayerWeight],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for search, name in zip(searches, axis_names(moved[search.axis] for search in searches)):
        rows.append(
            {
                "axis": name,
                "size": search.axis.size,
                "members": moved[search.axis],
                "consumers": tuple(consumer.name for consumer in search.consumers),
                **_worth(search),
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
            row["baseline"] = before.get(layer.name, math.nan)
            row["retained"] = after.get(layer.name, math.nan)  # its rows may have moved
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


_UNKNOWN = dict.fromkeys(("baseline", "retained", "ideal", "efficacy"), math.nan)


def _worth(search: AxisSearch) -> dict[str, float]:
    if not search.searched:
        return _UNKNOWN
    back = search.status == "rolled_back"
    return {
        "baseline": search.baseline,
        "retained": search.baseline if back else search.retained,
        "ideal": search.ideal,
        "efficacy": 0.0 if back else search.efficacy,
    }


def _pinned_row(layer: LayerWeight, member: Member | None, reason: str | None = None) -> dict[str, Any]:
    if reason is None:
        reasons = reasons_of(member.dims[layer.channel_dim]) if member else []
        reason = "; ".join(reasons) or "every index of it means something else"
    return {
        "axis": f"{layer.name}:{layer.channel_dim}",
        "size": layer.weight.shape[layer.channel_dim],
        "members": (),
        "consumers": (layer.name,),
        **_UNKNOWN,
        "seconds": 0.0,
        "status": "pinned",
        "reason": reason,
    }


_BEST_FIRST = ("permuted", "kept", "rolled_back", "pinned")


def _weights(
    searches: Sequence[AxisSearch], consumers: Sequence[Consumer], layers: Sequence[LayerWeight]
) -> pd.DataFrame:
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
