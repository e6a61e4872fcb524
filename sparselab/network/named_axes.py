"""What ``permute`` searches: the axes of a network by name, and their search problems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sparselab import saliency as saliency_module
from sparselab.core.entries import mask_name
from sparselab.core.layers import LayerWeight, Names, layer_weights, model_weights
from sparselab.core.models import as_eager, unwrap
from sparselab.core.patterns import Pattern
from sparselab.core.readable import is_offloaded, not_there_yet, why_unreadable
from sparselab.core.sharding import is_flattened, is_sharded, reshard
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks.eligibility import why_not_pruned
from sparselab.network.analysis import Analysis
from sparselab.network.axes import Indices, leaves_of
from sparselab.network.examples import examples_of
from sparselab.network.free_axes import Axis, free_axes
from sparselab.network.outputs import Outputs
from sparselab.network.plan import Plan
from sparselab.network.reach import Reach
from sparselab.network.search_problems import Place, Scored, Scores, consumers_of, placed_problems
from sparselab.permutation import SearchProblem
from sparselab.permutation.objectives import ByErrors
from sparselab.permutation.problem import MAX_CHANNELS
from sparselab.saliency import ModelSaliency


@dataclass(frozen=True, eq=False)
class AxisProblem:
    """One order to search: an axis of a network, in one of its contexts (one head of several).

    ``name`` is its first tensor and dimension: ``"0.weight:0"``, with ``#2`` for a second axis
    there, and ``@3`` for the context. ``members`` are all tensors and dimensions that move,
    ``consumers`` the weights that read the axis as input channels.
    """

    name: str
    members: tuple[str, ...]
    consumers: tuple[str, ...]
    place: Place
    problem: SearchProblem
    _analysis: Analysis
    _axis: Axis

    def plan(self, found: Indices) -> Plan:
        """What the order ``found`` of the problem's units means for the network's tensors."""
        orders = self._axis.identity()
        orders[self.place.context] = self.place.order(found)
        return Plan.from_orders(self._analysis, {self._axis: orders})


@dataclass(frozen=True, eq=False)
class NamedAxis:
    """An axis in one of its contexts: its ``members`` (``"tensor:dim"``) and ``readers``."""

    axis: Axis
    context: int
    members: tuple[str, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class NetworkAxes:
    """The free axes of a model that weights can be pruned along.

    The model is traced once; ``model`` is read and never changed.
    ``named`` has them by name, in the order in which ``permute`` searches them.
    """

    model: nn.Module
    named: Mapping[str, NamedAxis]
    _analysis: Analysis

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: Any,
        *,
        outputs: Outputs | None = None,
        unreached: str = "refuse",
    ) -> NetworkAxes:
        """The axes of ``model``, traced on ``example_inputs``; the arguments are as in ``permute``.

        Raises ``UntraceableError``, ``UnreachedError`` for one with parameters that no example
        reaches, and ``ValueError`` for one that is sharded or has no values yet.
        """
        reach = Reach.of(outputs, unreached)
        inner = unwrap(as_eager(model, "NetworkAxes.of"))
        layers = list(layer_weights(inner))
        _require_in_place(inner, layers)
        analysis = reach.analyse(inner, examples_of(example_inputs, inner))
        consumers = consumers_of(analysis, layers)
        readers = {axis: tuple(c.name for c in consumers if c.reads(axis)) for axis in free_axes(analysis)}
        axes = [axis for axis, names in readers.items() if names and axis.size <= MAX_CHANNELS]
        members = axis_members(analysis, axes)
        named = {
            f"{name}@{context}" if axis.contexts > 1 else name: NamedAxis(axis, context, members[axis], readers[axis])
            for axis, name in zip(axes, axis_names(members[axis] for axis in axes))
            for context in range(axis.contexts)
        }
        return cls(inner, named, analysis)

    def problem(self, name: str, pattern: str | Pattern, saliency: ModelSaliency = "magnitude") -> AxisProblem | None:
        """What is searched for the axis called ``name``.

        ``None`` when ``pattern`` can prune no weight that reads it.
        """
        parsed = Pattern.parse(pattern)
        named = self.named[name]
        layers = chosen_layers(self.model, parsed, None, None)
        consumers = [consumer for consumer in consumers_of(self._analysis, layers) if consumer.reads(named.axis)]
        _, m = parsed.require_nm("a permutation search")
        found = placed_problems(named.axis, consumers, layer_scores(saliency), m)
        placed = next(islice(found, named.context, None), None)
        if placed is None or placed.problem is None:
            return None
        return AxisProblem(
            name, named.members, placed.consumers, placed.place, placed.problem, self._analysis, named.axis
        )


def chosen_layers(
    model: nn.Module, pattern: Pattern, include: Iterable[str] | None, exclude: Iterable[str] | None
) -> list[LayerWeight]:
    """The layers whose retained saliency counts: chosen by name, and such that ``pattern`` fits.

    Raises ``ValueError`` for names that match nothing, and for a model that is masked already, is
    sharded or has weights without values.
    """
    names, weights = Names.of(include, exclude), list(model_weights(model))
    names.check(model, weights)
    layers = [weight for weight in weights if isinstance(weight, LayerWeight)]
    _require_in_place(model, layers)
    for layer in layers:
        if hasattr(layer.module, mask_name(layer.attribute)):
            raise ValueError(
                f"{layer.name!r} is masked already: permute first, then make the Sparsifier, or give it "
                "example_inputs and it permutes before it prunes (finalize() removes masks)"
            )
    return [layer for layer in layers if why_not_pruned(layer, pattern, names=names) is None]


def _require_in_place(model: nn.Module, layers: Iterable[LayerWeight]) -> None:
    """Raise ``ValueError`` for a model that is sharded, which one process cannot trace, or not there."""
    reshard(model)
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(
                f"{name!r} is sharded (DTensor), and channels are permuted in one process: permute "
                "(a Sparsifier: compute()) before fully_shard or parallelize_module, or leave "
                "example_inputs out; a plan made before is applied by Plan.apply"
            )
    for layer in layers:
        if not_there_yet(layer):
            raise ValueError(f"{layer.name!r} has no values yet: load them, or run a lazy layer once, and permute then")
        if is_flattened(layer.weight) or is_offloaded(layer.module):
            raise ValueError(f"{layer.name!r} cannot be moved: it is {why_unreadable(layer.weight, layer.module)}")


def layer_scores(saliency: ModelSaliency) -> Scores:
    """The scores of a layer's weight matrix, read by rows.

    Magnitudes are computed for the rows that are asked for, and for no others. Raises
    ``ValueError`` when scores that are asked for are not finite.
    """

    def scores(layer: LayerWeight) -> Scored:
        weight, criterion = layer.weight.detach(), saliency_module.for_layer(saliency, layer.name)
        plain = isinstance(criterion, str) and criterion == "magnitude"
        values = weight if plain else saliency_module.layer_scores(weight, saliency, layer.name)
        matrix = to_matrix(values, layer.channel_dim)

        def read(rows: Indices | slice) -> Tensor:
            part = matrix[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(matrix.device)]
            return _finite(part.abs() if plain else part, layer)

        return Scored(read)

    return scores


def layer_errors(errors: ByErrors) -> Scores:
    """The weight matrix of a layer and what its rows are judged by.

    Raises ``ValueError`` for a layer without second moments, and one whose weight is not finite.
    """

    def scores(layer: LayerWeight) -> Scored:
        weight = layer.weight.detach()
        moments, counts = errors.of(layer.name, weight)
        matrix = to_matrix(weight, layer.channel_dim)

        def read(rows: Indices | slice) -> Tensor:
            return _finite(matrix[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(matrix.device)], layer)

        return Scored(read, moments, counts)

    return scores


def whole_scores(layer: LayerWeight, saliency: ModelSaliency) -> Tensor:
    """The scores of a layer's weight, in its shape; ``ValueError`` where one is not finite."""
    return _finite(saliency_module.layer_scores(layer.weight.detach(), saliency, layer.name), layer)


def _finite(scores: Tensor, layer: LayerWeight) -> Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(f"the scores of {layer.name!r} are not all finite: is the weight?")
    return scores


def axis_members(analysis: Analysis, axes: Sequence[Axis]) -> dict[Axis, tuple[str, ...]]:
    """The ``"tensor:dim"`` in which each axis occurs, in the model's order."""
    owner = {leaf: axis for axis in axes for leaf in axis.leaves}
    found: dict[Axis, dict[str, None]] = {axis: {} for axis in axes}
    for member in analysis.members:
        for dim, made_of in enumerate(member.dims):
            for leaf in leaves_of(made_of):
                if leaf in owner:
                    found[owner[leaf]][f"{member.name}:{dim}"] = None
    return {axis: tuple(names) for axis, names in found.items()}


def axis_names(members: Iterable[tuple[str, ...]]) -> list[str]:
    """A name for each axis: the first of its members, numbered from the second axis there."""
    names, taken = [], dict[str, int]()
    for first, *_ in members:
        taken[first] = taken.get(first, 0) + 1
        names.append(first if taken[first] == 1 else f"{first}#{taken[first]}")
    return names
