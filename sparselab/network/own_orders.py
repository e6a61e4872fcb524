"""An order for every weight by itself: the axes of a network in which nothing is connected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sparselab import saliency as saliency_module
from sparselab.core.channel_order import ChannelOrder
from sparselab.core.layers import LayerWeight
from sparselab.core.moves import Move
from sparselab.network.analysis import Analysis, Member
from sparselab.network.axes import fresh
from sparselab.network.free_axes import free_axes
from sparselab.network.plan import Plan
from sparselab.network.search_problems import Consumer, consumers_of
from sparselab.network.searching import Searches, SearchSettings, search_axes
from sparselab.saliency import ModelSaliency, Saliency


@dataclass(frozen=True, eq=False)
class OwnOrders:
    """What was found for each of some weights: ``searches``, in the ``analysis`` that holds just them."""

    analysis: Analysis
    consumers: Sequence[Consumer]
    searches: Searches

    @classmethod
    def search(cls, layers: Sequence[LayerWeight], settings: SearchSettings, moved_by: Plan | None = None) -> OwnOrders:
        """The best order of the input channels of every one of ``layers``.

        They are searched, and what they retain is counted, as if the plan ``moved_by`` had moved them.
        """
        analysis = unconnected(layers)
        consumers = consumers_of(analysis, layers)
        if moved_by is not None:
            settings = replace(settings, saliency=after(moved_by, settings.saliency, layers))
        return cls(analysis, consumers, search_axes(analysis, free_axes(analysis), consumers, settings))

    @property
    def by_weight(self) -> dict[str, ChannelOrder]:
        """The orders that are better than none, by the name of their weight."""
        return {
            search.consumers[0].name: ChannelOrder(search.orders[0], search.consumers[0].layer.dimension)
            for search in self.searches.axes
            if search.status == "permuted"
        }


def unconnected(layers: Iterable[LayerWeight]) -> Analysis:
    """The analysis of a network whose weights have nothing to do with each other."""
    layers = list(layers)
    members = [
        Member(
            (layer.name,),
            tuple(layer.weight.shape),
            tuple(
                fresh(size, None if dim == layer.dimension else "own orders are of input channels")
                for dim, size in enumerate(layer.weight.shape)
            ),
        )
        for layer in layers
    ]
    # What a layer is given has its channels and no rows: so all rows have one order.
    inputs = [(member.dims[layer.dimension],) for member, layer in zip(members, layers, strict=True)]
    return Analysis(tuple(members), (*(member.dims for member in members), *inputs))


def after(plan: Plan, saliency: ModelSaliency, layers: Iterable[LayerWeight]) -> ModelSaliency:
    """The saliency by which ``layers``, still as they are, are scored as they will be after ``plan``."""
    moves: dict[str, list[Move]] = {}
    for move in plan.moves:
        for name in move.names:
            moves.setdefault(name, []).append(move)
    criteria = {layer.name: saliency_module.for_layer(saliency, layer.name) for layer in layers}
    return {name: _moving(criterion, moves.get(name, ())) for name, criterion in criteria.items()}


def _moving(criterion: Saliency, moves: Iterable[Move]) -> Callable[[Tensor], Tensor]:
    """From a weight to its scores, moved: computed when they are asked for, so not all are in memory at once."""

    def scores(weight: Tensor) -> Tensor:
        found = saliency_module.scores(weight, criterion)
        for move in moves:
            found = move(found)
        return found

    return scores
