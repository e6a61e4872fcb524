"""An order for every axis of a network: each by itself, or, for 2d masks, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparselab.core.interrupts import interrupts_noticed
from sparselab.core.patterns import Pattern
from sparselab.network.analysis import Analysis
from sparselab.network.axes import Indices
from sparselab.network.free_axes import Axis
from sparselab.network.in_turn import BothWays, touches
from sparselab.network.named_axes import layer_scores, whole_scores
from sparselab.network.search_problems import Consumer, Place, objectives
from sparselab.permutation import SearchProblem, SearchResult, search_permutation
from sparselab.permutation.problem import LARGEST_BLOCK, MAX_CHANNELS
from sparselab.permutation.search import check_backend
from sparselab.permutation.strategy import Strategy
from sparselab.saliency import ModelSaliency


def searchable(pattern: Pattern) -> bool:
    """Whether orders can be judged by the masks of ``pattern`` itself: those along the channels, and small 2d ones."""
    return pattern.calculator == "1d" or (pattern.calculator == "2d_best" and (pattern.m or 0) <= LARGEST_BLOCK)


@dataclass(frozen=True)
class SearchSettings:
    """How to search. Raises ``ValueError`` for a pattern, or a backend for it, that no order can be searched with."""

    pattern: Pattern
    strategy: str | Strategy
    saliency: ModelSaliency
    seed: int
    backend: str

    def __post_init__(self) -> None:
        n, m = self.pattern.require_nm("permute")
        if not searchable(self.pattern):
            raise ValueError(
                f"permute searches orders for '{n}:{m}' and, with M up to {LARGEST_BLOCK}, for 'm{m}n{n}_2d_best'; got "
                f"'{self.pattern}', which the order for '{n}:{m}' helps too"
            )
        check_backend(self.pattern, self.backend)

    @property
    def m(self) -> int:
        """The size of a group."""
        return self.pattern.require_nm("permute")[1]

    def search(self, problem: SearchProblem, number: int) -> SearchResult:
        """Search one problem, with a seed of its own."""
        return search_permutation(
            problem, self.pattern, strategy=self.strategy, seed=self.seed + number, backend=self.backend
        )


@dataclass
class AxisSearch:
    """What was found for one axis."""

    axis: Axis
    consumers: tuple[Consumer, ...]
    orders: Indices
    searched: bool = False
    baseline: float = 0.0
    retained: float = 0.0
    ideal: float = 0.0
    seconds: float = 0.0
    status: str = "kept"
    reason: str = "no better order was found"

    def add(self, place: Place, result: SearchResult) -> None:
        """One context's result."""
        order = place.order(result.order)
        self.orders[place.context] = order
        self.searched = True
        self.baseline += result.baseline
        self.retained += result.retained
        self.ideal += result.ideal
        self.seconds += result.seconds
        if (order != np.arange(self.axis.size)).any():
            self.status, self.reason = "permuted", ""

    @property
    def efficacy(self) -> float:
        """Percent of the way from the baseline to the ideal."""
        room = self.ideal - self.baseline
        return 100.0 * (self.retained - self.baseline) / room if room > 1e-12 * abs(self.ideal) else 100.0


def search_each(axes: Sequence[Axis], consumers: Sequence[Consumer], settings: SearchSettings) -> list[AxisSearch]:
    """An order for every axis that a consumer reads."""
    searches: list[AxisSearch] = []
    with interrupts_noticed() as raise_if_interrupted:
        for number, axis in enumerate(axes):
            readers = tuple(consumer for consumer in consumers if consumer.reads(axis))
            if not readers:
                continue
            searches.append(search := AxisSearch(axis, readers, axis.identity()))
            if axis.size > MAX_CHANNELS:
                search.reason = f"{axis.size} units are more than the {MAX_CHANNELS} that can be searched"
                continue
            found = _search_one(axis, readers, settings, number, raise_if_interrupted)
            if not found:
                search.reason = f"its units do not fill groups of {settings.m} in any weight that reads it"
            for place, result in found:  # what was searched is no longer in memory
                search.add(place, place.counted(result))
                raise_if_interrupted()
    return searches


def _search_one(
    axis: Axis,
    readers: Sequence[Consumer],
    settings: SearchSettings,
    number: int,
    raise_if_interrupted: Callable[[], None],
) -> list[tuple[Place, SearchResult]]:
    """What was found for each context in which there is something to search."""
    found = []
    scores = layer_scores(settings.saliency)
    for objective in objectives(axis, readers, scores, settings.m, seed=settings.seed + number):
        if objective.problem is not None:
            place = objective.place
            found.append((place, settings.search(objective.problem, 1_000 * number + place.context)))
        raise_if_interrupted()
    return found


@dataclass(frozen=True, eq=False)
class InTurn:
    """The searches of axes for 2d masks, and what each weight, by name, retains ``before`` and ``after`` all of them."""

    searches: list[AxisSearch]
    before: dict[str, float]
    after: dict[str, float]


def search_in_turn(
    analysis: Analysis, axes: Sequence[Axis], consumers: Sequence[Consumer], settings: SearchSettings
) -> InTurn:
    """An order for every axis that moves a consumer's columns or rows (``BothWays``)."""
    along = replace(settings, pattern=Pattern.nm(*settings.pattern.require_nm("permute")))
    # Searching an axis is one step of many here, so a descent does: the next round goes on where it ended.
    step = replace(settings, strategy="channel_swap") if settings.strategy == "auto" else settings
    by_axis = {search.axis: search for search in search_each(axes, consumers, along)}
    scores = {consumer.name: whole_scores(consumer.layer, settings.saliency) for consumer in consumers}
    weights = BothWays(analysis, axes, consumers, scores, settings.pattern)
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
        found = by_axis.get(axis) or AxisSearch(axis, (), axis.identity())
        search = AxisSearch(axis, found.consumers, orders[axis], bool(found.consumers), seconds=found.seconds)
        if (orders[axis] != axis.identity()).any():
            search.status, search.reason = "permuted", ""
        if search.searched:
            search.baseline, search.ideal = weights.worth(axis, none)
            search.retained, _ = weights.worth(axis, orders)
        searches.append(search)
    return InTurn(
        searches,
        {consumer.name: weights.retained(none, [consumer]) for consumer in consumers},
        {consumer.name: weights.retained(orders, [consumer]) for consumer in consumers},
    )
