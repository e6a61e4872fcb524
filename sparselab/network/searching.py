"""An order for every axis of a network: each by itself, or, for 2d masks, in turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sparselab.core import measures
from sparselab.core.interrupts import interrupts_noticed
from sparselab.core.patterns import Pattern
from sparselab.core.progress import late_bar
from sparselab.masks import calculator
from sparselab.network.analysis import Analysis
from sparselab.network.axes import Indices
from sparselab.network.free_axes import Axis
from sparselab.network.in_turn import TransposableWeights, touches
from sparselab.network.named_axes import layer_errors, layer_scores, whole_scores
from sparselab.network.search_problems import Consumer, Place, placed_problems
from sparselab.ops.threads import side_by_side
from sparselab.permutation import SearchProblem, SearchResult, search_permutation
from sparselab.permutation.auto import Auto
from sparselab.permutation.coercion import as_strategy, require_seed
from sparselab.permutation.objectives import ByErrors
from sparselab.permutation.problem import LARGEST_BLOCK, MAX_CHANNELS
from sparselab.permutation.search import check_backend
from sparselab.permutation.strategy import Callback, Strategy
from sparselab.saliency import ModelSaliency

# Axes keep the threads busy, so a search needs no second chain: one that is longer finds as much. It begins cooler,
# too: hot moves take twice the time of cold ones, and are mostly undone where there are hundreds of groups.
_SMALL = Auto(effort=1.0, hot=0.05)
_LARGE = Auto(chains=1, effort=1.0, hot=0.03)
_SMALLEST_LARGE = 65  # units from which on an axis is large: below, many chains find more than a long one
_AT_ONCE = 4  # axes searched side by side: each holds its scores in memory


def searchable(pattern: Pattern) -> bool:
    """Whether orders are searched for ``pattern`` itself, because its own masks can judge them."""
    return calculator(pattern).searched_as == str(pattern)


@dataclass(frozen=True)
class SearchSettings:
    """How to search, and whether a bar shows it once it takes longer than two seconds.

    Raises ``ValueError`` for a pattern, or a backend for it, that no order can be searched with.
    """

    pattern: Pattern
    strategy: str | Strategy
    saliency: ModelSaliency
    seed: int
    backend: str
    errors: ByErrors | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        n, m = self.pattern.require_nm("permute")
        if not searchable(self.pattern):
            raise ValueError(
                f"permute searches orders for '{n}:{m}' and, with M up to {LARGEST_BLOCK}, for "
                f"'m{m}n{n}_2d_best'; got '{self.pattern}', which the order for '{n}:{m}' helps too"
            )
        as_strategy(self.strategy)  # also where there is nothing to search
        require_seed(self.seed)
        check_backend(self.pattern, self.backend)
        if self.errors is not None and calculator(self.pattern).transposable:
            raise ValueError(f"objective: errors judge masks along the channels, '{n}:{m}', not '{self.pattern}'")

    @property
    def objective(self) -> str | None:
        """What orders are searched for, ``None`` for saliency."""
        return None if self.errors is None else str(self.errors.objective)

    @property
    def m(self) -> int:
        """The size of a group."""
        return self.pattern.require_nm("permute")[1]

    def _strategy(self, units: int) -> str | Strategy:
        """``auto``, by name or as the object that a ``Sparsifier`` makes of it, is fitted to axes."""
        if as_strategy(self.strategy) != Auto():
            return self.strategy
        return _SMALL if units < _SMALLEST_LARGE else _LARGE

    def search(self, problem: SearchProblem, number: int, callback: Callback | None = None) -> SearchResult:
        """Search one problem, with a seed of its own."""
        return search_permutation(
            problem,
            self.pattern,
            strategy=self._strategy(problem.size),
            seed=self.seed + number,
            backend=self.backend,
            callback=callback,
        )


@dataclass(frozen=True)
class Worth:
    """The saliency retained along an axis: before (``baseline``), after, and with no structure."""

    baseline: float
    retained: float
    ideal: float

    @property
    def efficacy(self) -> float:
        """Percent of the way from the baseline to the ideal; 100 where there is no way to go."""
        return measures.efficacy(self.retained, self.baseline, self.ideal)


@dataclass(frozen=True, eq=False)
class AxisSearch:
    """What was found for one axis: ``orders`` ``(contexts, size)``, and what they are ``worth``.

    ``worth`` is ``None`` where nothing was searched. ``status`` and ``reason`` are those of the
    report.
    """

    axis: Axis
    consumers: tuple[Consumer, ...]
    orders: Indices
    worth: Worth | None = None
    seconds: float = 0.0
    status: str = "kept"
    reason: str = "no better order was found"

    @classmethod
    def of(
        cls, axis: Axis, consumers: tuple[Consumer, ...], orders: Indices, worth: Worth | None, seconds: float
    ) -> AxisSearch:
        """``permuted`` if the orders move anything, else ``kept``."""
        search = cls(axis, consumers, orders, worth, seconds)
        moves = (orders != axis.identity()).any()
        return replace(search, status="permuted", reason="") if moves else search

    def rolled_back(self) -> AxisSearch:
        """The search of an axis that had to stay where it was."""
        worth = self.worth and replace(self.worth, retained=self.worth.baseline)
        return AxisSearch(
            self.axis,
            self.consumers,
            self.axis.identity(),
            worth,
            self.seconds,
            "rolled_back",
            "moving it changed the model's outputs",
        )


@dataclass(frozen=True, eq=False)
class Searches:
    """What was found for every axis of a network.

    For 2d masks also what each weight, by name, retains ``before`` and ``after`` all of it: the
    rows of a weight may have moved although its input channels are pinned.
    """

    axes: tuple[AxisSearch, ...] = ()
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)

    @property
    def orders(self) -> dict[Axis, Indices]:
        """The orders of the axes that are to move."""
        return {search.axis: search.orders for search in self.axes if search.status == "permuted"}

    def rolled_back(self, blamed: Collection[Axis]) -> Searches:
        """The searches without the moves of the axes to blame."""
        return replace(
            self, axes=tuple(search.rolled_back() if search.axis in blamed else search for search in self.axes)
        )


def search_axes(
    analysis: Analysis, axes: Sequence[Axis], consumers: Sequence[Consumer], settings: SearchSettings
) -> Searches:
    """An order for every axis that matters to what the ``consumers`` retain."""
    if calculator(settings.pattern).transposable:
        return search_in_turn(analysis, axes, consumers, settings)
    return Searches(search_each(axes, consumers, settings))


def search_each(
    axes: Sequence[Axis], consumers: Sequence[Consumer], settings: SearchSettings
) -> tuple[AxisSearch, ...]:
    """An order for every axis that a consumer reads; several are searched side by side.

    Each has a seed of its own, so the orders do not depend on how many.
    """
    readers = {axis: tuple(consumer for consumer in consumers if consumer.reads(axis)) for axis in axes}
    numbers = {axis: number for number, axis in enumerate(axes) if readers[axis]}
    largest_first = sorted(numbers, key=lambda axis: -sum(reader.layer.weight.numel() for reader in readers[axis]))
    bar = late_bar("searching orders", "axis", total=len(numbers), progress=settings.progress)
    with bar, interrupts_noticed() as raise_if_interrupted:

        def search(axis: Axis) -> AxisSearch:
            raise_if_interrupted()
            found = _search_one(axis, readers[axis], settings, numbers[axis], raise_if_interrupted)
            bar.update()
            return found

        found = dict(zip(largest_first, side_by_side(search, largest_first, _AT_ONCE), strict=True))
    return tuple(found[axis] for axis in numbers)


def _search_one(
    axis: Axis,
    readers: tuple[Consumer, ...],
    settings: SearchSettings,
    number: int,
    raise_if_interrupted: Callable[[], None],
) -> AxisSearch:
    orders = axis.identity()
    if axis.size > MAX_CHANNELS:
        reason = f"{axis.size} units are more than the {MAX_CHANNELS} that can be searched"
        return AxisSearch(axis, readers, orders, reason=reason)
    found = _search_contexts(axis, readers, settings, number, raise_if_interrupted)
    if not found:
        reason = f"its units do not fill groups of {settings.m} in any weight that reads it"
        return AxisSearch(axis, readers, orders, reason=reason)
    counted = []
    for place, result in found:  # what was searched is no longer in memory
        counted.append(place.counted(result))
        orders[place.context] = place.order(counted[-1].order)
        raise_if_interrupted()
    worth = Worth(
        sum(result.baseline for result in counted),
        sum(result.retained for result in counted),
        sum(result.ideal for result in counted),
    )
    return AxisSearch.of(axis, readers, orders, worth, sum(result.seconds for result in counted))


def _search_contexts(
    axis: Axis,
    readers: Sequence[Consumer],
    settings: SearchSettings,
    number: int,
    raise_if_interrupted: Callable[[], None],
) -> list[tuple[Place, SearchResult]]:
    """What was found for each context in which there is something to search."""
    found = []
    scores = layer_scores(settings.saliency) if settings.errors is None else layer_errors(settings.errors)
    for placed in placed_problems(axis, readers, scores, settings.m, seed=settings.seed + number):
        if placed.problem is not None:
            seed = 1_000 * number + placed.place.context
            found.append((placed.place, settings.search(placed.problem, seed, lambda *_: raise_if_interrupted())))
        raise_if_interrupted()
    return found


def search_in_turn(
    analysis: Analysis, axes: Sequence[Axis], consumers: Sequence[Consumer], settings: SearchSettings
) -> Searches:
    """An order for every axis that moves a consumer's columns or rows (``TransposableWeights``)."""
    along = replace(settings, pattern=Pattern.nm(*settings.pattern.require_nm("permute")))
    # Searching an axis is one step of many here, so a descent does: the next round goes on from there.
    step = replace(settings, strategy="channel_swap") if settings.strategy == "auto" else settings
    by_axis = {search.axis: search for search in search_each(axes, consumers, along)}
    scores = {consumer.name: whole_scores(consumer.layer, settings.saliency) for consumer in consumers}
    weights = TransposableWeights(analysis, axes, consumers, scores, settings.pattern)
    none = {axis: axis.identity() for axis in axes}
    bar = late_bar("searching orders in turn", "search", progress=settings.progress)
    with bar, interrupts_noticed() as raise_if_interrupted:

        def search_one(problem: SearchProblem, number: int) -> Indices:
            raise_if_interrupted()
            found = step.search(problem, 1_000 * number).order
            bar.update()
            return found

        start = none | {axis: search.orders for axis, search in by_axis.items()}
        in_turn = weights.alternate([none, start], search_one)

    def searched(axis: Axis) -> AxisSearch:
        seconds = in_turn.seconds.get(axis, 0.0)
        if (found := by_axis.get(axis)) is None:
            return AxisSearch.of(axis, (), in_turn.orders[axis], None, seconds)
        baseline, ideal = weights.worth(axis, none)
        retained, _ = weights.worth(axis, in_turn.orders)
        worth = Worth(baseline, retained, ideal)
        return AxisSearch.of(axis, found.consumers, in_turn.orders[axis], worth, found.seconds + seconds)

    return Searches(
        tuple(searched(axis) for axis in axes if any(touches(axis, consumer) for consumer in consumers)),
        {consumer.name: weights.retained(none, [consumer]) for consumer in consumers},
        {consumer.name: weights.retained(in_turn.orders, [consumer]) for consumer in consumers},
    )
