"""What a permutation does to the outputs that were not chosen, and what a choice would free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparselab.network.analysis import Analysis, Output
from sparselab.network.axes import Indices, Leaf, leaves_of, size_of
from sparselab.network.dataflow import Dims
from sparselab.network.free_axes import Axis, Orders, free_axes, order_of
from sparselab.network.search_problems import Consumer, fills_groups_of


@dataclass(frozen=True, eq=False)
class Reordering:
    """The dimensions ``dims`` of a tensor, flattened together, in ``order``: ``new = old[order]``."""

    dims: tuple[int, ...]
    order: Indices

    def __call__(self, tensor: Tensor) -> Tensor:
        """A copy of ``tensor`` in the new order."""
        front = tensor.movedim(self.dims, tuple(range(len(self.dims))))
        flat = front.reshape(len(self.order), -1)[torch.from_numpy(self.order).to(tensor.device)]
        return flat.reshape(front.shape).movedim(tuple(range(len(self.dims))), self.dims)


@dataclass(frozen=True, eq=False)
class OutputOrder:
    """What became of one tensor that the model returns.

    ``name`` is its path in what the model returns (``"logits"``, ``"hidden_states.3"``), ``shape``
    that on the example, ``chosen`` whether it had to stay as it was. ``reorderings`` are none where
    it is as it was.
    """

    name: str
    shape: tuple[int, ...]
    chosen: bool
    reorderings: tuple[Reordering, ...] = ()

    def __call__(self, tensor: Tensor) -> Tensor:
        """What the permuted model returns where the model returned ``tensor`` before."""
        for reordering in self.reorderings:
            tensor = reordering(tensor)
        return tensor

    def order(self, dim: int | None = None) -> Indices:
        """The order of one dimension: what is at ``i`` now was at ``order[i]`` before.

        Without ``dim`` that of the only dimension that moved, of the last one if none did. Raises
        ``ValueError`` where several did, or where ``dim`` moved together with others.
        """
        if dim is not None and not -len(self.shape) <= dim < len(self.shape):
            raise ValueError(f"dim={dim}: {self.name or 'the output'!r} has {len(self.shape)} dimensions")
        moved = [
            reordering for reordering in self.reorderings if dim is None or dim % len(self.shape) in reordering.dims
        ]
        if not moved:
            return np.arange(self.shape[-1 if dim is None else dim] if self.shape else 1)
        dims = [reordering.dims for reordering in moved]
        if len(dims) > 1:
            raise ValueError(f"dimensions {', '.join(str(each[0]) for each in dims)} of {self.name!r} moved: give dim=")
        if len(dims[0]) > 1:
            raise ValueError(
                f"dimensions {dims[0]} of {self.name!r} moved together, so none has an order of its own: "
                "reorderings has that of all of them"
            )
        return moved[0].order


def output_orders(analysis: Analysis, orders: Orders) -> tuple[OutputOrder, ...]:
    """What the orders of some axes mean for every output of the model in evaluation mode."""
    axis_of = {leaf: axis for axis in orders for leaf in axis.leaves}
    return tuple(
        OutputOrder(output.name, tuple(map(size_of, output.dims)), output.chosen, _reorderings(output, orders, axis_of))
        for output in analysis.outputs
        if not output.training
    )


def _reorderings(output: Output, orders: Orders, axis_of: Mapping[Leaf, Axis]) -> tuple[Reordering, ...]:
    made = []
    for dims in _together(output.dims, axis_of):
        order = order_of(tuple(output.dims[dim] for dim in dims), orders, axis_of)
        if (order != np.arange(len(order))).any():
            made.append(Reordering(dims, order))
    return tuple(made)


def _together(dims: Dims, axis_of: Mapping[Leaf, Axis]) -> list[tuple[int, ...]]:
    """The dimensions that move, those in one tuple of which an axis needs the coordinates together."""
    inside = [set(leaves_of(dim)) for dim in dims]
    sets: list[set[int]] = []
    for position, leaves in enumerate(inside):
        axes = {axis_of[leaf] for leaf in leaves if leaf in axis_of}
        needed = {leaf for axis in axes for leaf in (*axis.leaves, *axis.outer)} - leaves
        if axes:
            mine = {position, *(other for other, theirs in enumerate(inside) if theirs & needed)}
            mine.update(*(each for each in sets if each & mine))
            sets = [each for each in sets if not each & mine] + [mine]
    return [tuple(sorted(each)) for each in sets]


# ------------------------------------------------------------------------------------------------------- a suggestion


@dataclass(frozen=True)
class Suggestion:
    """A choice of ``outputs`` that would free weights: ``share`` of the eligible ones, by size.

    It is what is left when every output is ``left_out`` that keeps eligible weights in their order.
    """

    outputs: tuple[str | int, ...]
    left_out: tuple[str, ...]
    share: float

    @property
    def line(self) -> str:
        """What to type."""
        given = self.outputs[0] if len(self.outputs) == 1 else list(self.outputs)
        return f"permute(model, example_inputs, outputs={given!r})".replace("'", '"')

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f}% more of the eligible weights could move if nobody reads "
            f"{', '.join(self.left_out)} of the output: {self.line}"
        )


def suggestion(analysis: Analysis, consumers: Sequence[Consumer], m: int, numel: int) -> Suggestion | None:
    """Which outputs to choose, for groups of ``m``; ``None`` where no choice frees any of ``numel`` weights.

    An output costs where it alone keeps input channels of ``consumers`` in their order.
    """
    read = analysis.held.intersection(leaf for consumer in consumers for leaf in consumer.input_leaves())
    costly = {output.entry for output in analysis.outputs if read & _leaves(output)}
    kept = [output for output in analysis.outputs if output.entry not in costly]
    entries = dict.fromkeys(output.entry for output in kept if not output.training)
    returned = {output.example for output in analysis.outputs}
    if not costly or {output.example for output in kept if not output.training} != returned:
        return None
    freed = analysis.held.difference(*map(_leaves, kept))
    axes = [axis for axis in free_axes(analysis, freed) if freed.intersection(axis.leaves)]
    known = free_axes(analysis)
    gained = sum(
        consumer.layer.weight.numel()
        for consumer in consumers
        if freed.intersection(consumer.input_leaves())
        and any(fills_groups_of(axis, consumer, m) for axis in axes)
        and not any(fills_groups_of(axis, consumer, m) for axis in known)
    )
    if not gained:
        return None
    outputs = tuple(int(entry) if all(map(str.isdigit, entries)) else entry for entry in entries)
    return Suggestion(
        outputs, tuple(dict.fromkeys(o.entry for o in analysis.outputs if o.entry in costly)), gained / numel
    )


def _leaves(output: Output) -> set[Leaf]:
    return {leaf for dim in output.dims for leaf in leaves_of(dim)}
