"""Packed dimensions taken apart where they are cut, not where they are viewed.

``qkv.view(batch, tokens, 3, heads, width).unbind(2)`` and ``qkv.chunk(3, -1)`` with a view of each
part behind it are the same tensors. Only the second says that the parts have nothing to do with each
other: in the first all three share the leaves of heads and width. So a graph is written in the
second way before it is walked.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

_VIEWS = {"view", "reshape", "_unsafe_view", "unflatten"}
_CUTS = {"select", "slice", "unbind", "chunk", "split", "split_with_sizes"}


@dataclass(frozen=True)
class _Packed:
    """Dimension ``at`` of a view of ``source`` was cut from dimension ``dim`` of it, and then turned.

    ``shape`` is that of the view, ``first`` the first of its dimensions that were ``dim``, ``inner``
    the size of those behind ``at``, and ``turned[i]`` the dimension of the view that is ``i`` now.
    """

    source: Node
    dim: int
    shape: tuple[int, ...]
    first: int
    at: int
    inner: int
    turned: tuple[int, ...]

    def part(self, graph: Graph, start: int, stop: int, *, keep: bool) -> Node:
        """Indices ``start`` to ``stop`` of the dimension, with it or, one index alone, without."""
        shape = _shape(self.source)
        flat = (*self.shape[self.first : self.at], self.shape[self.at] * self.inner)
        dim = self.dim + self.at - self.first
        left = (stop - start,) if keep else ()
        turned = self.turned if keep else tuple(d - (d > self.at) for d in self.turned if d != self.at)
        aten = torch.ops.aten
        made = _call(graph, aten.reshape.default, self.source, [*shape[: self.dim], *flat, *shape[self.dim + 1 :]])
        made = _call(graph, aten.slice.Tensor, made, dim, start * self.inner, stop * self.inner)
        made = _call(graph, aten.reshape.default, made, [*self.shape[: self.at], *left, *self.shape[self.at + 1 :]])
        return _call(graph, aten.permute.default, made, list(turned))


def unpack(module: GraphModule) -> None:
    """Rewrite every cut of a dimension that a view made of a larger one as a cut of the larger one.

    What ``module`` computes stays the same. Nodes that nothing uses any longer stay in the graph.
    """
    for node in list(module.graph.nodes):
        if _name(node) in _CUTS and (packed := _packed(node)) is not None:
            with module.graph.inserting_before(node):
                _rewrite(module.graph, node, packed)


def _rewrite(graph: Graph, node: Node, packed: _Packed) -> None:
    before = set(graph.nodes)
    axis = packed.turned.index(packed.at)
    if isinstance(node.meta["val"], (list, tuple)):
        keep, start = _name(node) != "unbind", 0
        starts = []
        for val in node.meta["val"]:
            starts.append((start, start + (int(val.shape[axis]) if keep else 1)))
            start = starts[-1][1]
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(packed.part(graph, *starts[user.args[1]], keep=keep))  # type: ignore[index]
    else:
        size, index = packed.shape[packed.at], _argument(node, 2, "start" if _name(node) == "slice" else "index") or 0
        start = max(0, index + size) if index < 0 else min(index, size)
        keep = _name(node) == "slice"
        stop = start + (int(node.meta["val"].shape[axis]) if keep else 1)
        node.replace_all_uses_with(packed.part(graph, start, stop, keep=keep))
    for made in graph.nodes:
        if made not in before:
            made.meta.setdefault("stack_trace", node.meta.get("stack_trace"))


def _packed(node: Node) -> _Packed | None:
    """Where the dimension that ``node`` cuts comes from; ``None`` where it is no part of a larger one."""
    given: Any = node.args[0]
    if not isinstance(given, Node) or not _is_static(given) or _argument(node, 4, "step") not in (None, 1):
        return None
    turned = tuple(range(len(_shape(given))))
    dim = _argument(node, 1 if _name(node) in ("select", "slice", "unbind") else 2, "dim") or 0
    at = dim % len(turned)
    while (order := _order(given)) is not None:
        turned, given = tuple(order[d] for d in turned), given.args[0]
    at = turned[at]
    if _name(given) not in _VIEWS or not isinstance(source := given.args[0], Node) or not _is_static(source):
        return None
    shape, dims = _shape(given), _shape(source)
    for number, size in enumerate(dims):
        ahead = math.prod(dims[:number])
        first, last = _reaching(shape, ahead), _reaching(shape, ahead * size)
        if size > 1 and first is not None and last is not None and first <= at < last:
            inner = math.prod(shape[at + 1 : last])
            return _Packed(source, number, shape, first, at, inner, turned) if inner > 1 else None
    return None


def _reaching(shape: Sequence[int], size: int) -> int | None:
    """How many dimensions of ``shape`` have ``size`` indices together, at most; ``None`` if none do."""
    return max((count for count in range(len(shape) + 1) if math.prod(shape[:count]) == size), default=None)


def _order(node: Any) -> tuple[int, ...] | None:
    """The dimension of its input that each one of ``node`` is, where it only turns them."""
    if not isinstance(node, Node) or _name(node) not in ("permute", "transpose"):
        return None
    order = list(range(len(_shape(node))))
    if _name(node) == "permute":
        return tuple(int(dim) % len(order) for dim in node.args[1])  # type: ignore[arg-type, union-attr]
    first, second = (int(dim) % len(order) for dim in node.args[1:3])  # type: ignore[arg-type]
    order[first], order[second] = order[second], order[first]
    return tuple(order)


def _call(graph: Graph, target: Any, given: Node, *args: Any) -> Node:
    made = graph.call_function(target, (given, *args))
    made.meta["val"] = target(given.meta["val"], *args)
    return made


def _argument(node: Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _name(node: Any) -> str:
    target = node.target if isinstance(node, Node) else None
    return str(target._schema.name).rpartition("::")[2] if isinstance(target, torch._ops.OpOverload) else ""


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _is_static(node: Node) -> bool:
    val = node.meta.get("val")
    return isinstance(val, torch.Tensor) and all(isinstance(size, int) and size > 0 for size in val.shape)
