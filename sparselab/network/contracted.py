"""Which dimension of a packed parameter holds the input channels, read off the traced graph.

Packed matrices ``(matrices, ..., ...)`` are followed from the parameter through whatever only
chooses, turns or copies dimensions, to the products that they end in. What these sum over are the
input channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from sparselab.core.models import evaluating
from sparselab.network.examples import examples_of
from sparselab.network.tracing import trace

_SAME = {"contiguous", "clone", "alias", "detach", "to", "_to_copy", "type_as", "slice", "index_select", "expand"}
_PRODUCTS = {"matmul", "mm", "bmm", "addmm", "baddbmm", "_grouped_mm", "grouped_mm", "grouped_mm_fallback"}


@dataclass(frozen=True)
class _Part:
    """A value that is a part of a parameter: the parameter's dimension in each of its own, ``None`` for a new one."""

    name: str
    dims: tuple[int | None, ...]


@dataclass
class _Uses:
    """What is summed over in the products that a parameter ends in; ``other`` where it ends in something else."""

    summed: set[int | None] = field(default_factory=set)
    other: bool = False


def packed_channel_dims(model: nn.Module, example_inputs: Any, names: Iterable[str]) -> dict[str, int]:
    """The ``channel_dim``, -1 or -2, of those of the parameters called ``names`` that are packed matrices.

    All have three dimensions. The first of packed ones numbers matrices, and every use of them is a
    product that sums over the same one of the other two. The model is traced on ``example_inputs``,
    on each of them where they are a list, and left as it was. Raises ``UntraceableError``.
    """
    with evaluating(model):
        graphs = [trace(model, example) for example in examples_of(example_inputs, model)]
    uses = {name: _Uses() for name in names}
    for graph in graphs:
        parts: dict[Node, _Part] = {}
        for node in graph.module.graph.nodes:
            if node.op == "placeholder" and graph.tensors.get(node.name) in uses:
                parts[node] = _Part(graph.tensors[node.name], (0, 1, 2))
            for source in node.all_input_nodes:
                if source in parts:
                    _follow(node, source, parts, uses[parts[source].name])
    return {
        name: dim - 3
        for name, found in uses.items()
        if not found.other and len(found.summed) == 1
        for dim in found.summed
        if dim in (1, 2)
    }


def _follow(node: Node, source: Node, parts: dict[Node, _Part], uses: _Uses) -> None:
    """Note what ``node`` makes of ``source``: another part of the parameter, a product, or something else."""
    part, operator = parts[source], _operator(node)
    moved = _MOVES.get(operator)
    if operator in _SAME and node.args[0] is source:
        parts[node] = part
    elif moved is not None and node.args[0] is source:
        parts[node] = _Part(part.name, moved(part.dims, node))
    elif (summed := _summed(operator, node, source, part)) is not None:
        uses.summed |= summed
    else:
        uses.other = True


def _operator(node: Node) -> str:
    target = node.target
    return target._schema.name.rpartition("::")[2] if isinstance(target, torch._ops.OpOverload) else ""


def _summed(operator: str, node: Node, source: Node, part: _Part) -> set[int | None] | None:
    """The dimensions of the parameter that a product sums over; ``None`` for what is no product."""
    factors = list(node.args)
    if operator == "einsum":
        equation, operands = str(factors[0]).replace(" ", ""), list(factors[1])  # type: ignore[arg-type]
        inputs, arrow, output = equation.partition("->")
        if "." in equation or not arrow:
            return None
        letters = inputs.split(",")[operands.index(source)]
        return {dim for letter, dim in zip(letters, part.dims, strict=True) if letter not in output}
    if operator == "linear":
        return {part.dims[-1]} if factors[1] is source and factors[0] is not source else None
    if operator not in _PRODUCTS:
        return None
    left, right = factors[1:3] if operator.startswith(("addmm", "baddbmm")) else factors[:2]
    if (left is source) == (right is source):
        return None
    return {part.dims[-1] if left is source or len(part.dims) < 2 else part.dims[-2]}


# ------------------------------------------------------------------------------------- what moves dimensions

Dims = tuple[int | None, ...]


def _permute(dims: Dims, node: Node) -> Dims:
    return tuple(dims[dim] for dim in _numbers(node.args[1]))


def _transpose(dims: Dims, node: Node) -> Dims:
    swapped = list(dims)
    first, second = _numbers(node.args[1:3])
    swapped[first], swapped[second] = dims[second], dims[first]
    return tuple(swapped)


def _select(dims: Dims, node: Node) -> Dims:
    (dim,) = _numbers(node.args[1:2])
    return tuple(own for number, own in enumerate(dims) if number != dim % len(dims))


def _unsqueeze(dims: Dims, node: Node) -> Dims:
    (dim,) = _numbers(node.args[1:2])
    at = dim % (len(dims) + 1)
    return (*dims[:at], None, *dims[at:])


def _index(dims: Dims, node: Node) -> Dims:
    """``weight[ids]``: the dimensions of ``ids`` in place of the first one."""
    return (*(None,) * (len(node.meta["val"].shape) - len(dims) + 1), *dims[1:])


def _numbers(value: Any) -> list[int]:
    return [int(number) for number in value]


_MOVES: dict[str, Callable[[Dims, Node], Dims]] = {
    "permute": _permute,
    "transpose": _transpose,
    "t": lambda dims, node: dims[::-1],
    "numpy_T": lambda dims, node: dims[::-1],
    "matrix_H": lambda dims, node: dims[::-1],
    "mT": lambda dims, node: (*dims[:-2], dims[-1], dims[-2]),
    "select": _select,
    "unsqueeze": _unsqueeze,
    "index": _index,
}
