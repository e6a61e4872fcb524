"""Walk a graph of ATen operators once: one rule per operator says which dimensions are one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from sparselab.network.axes import Dim, fresh, leaves_of, pin, size_of
from sparselab.network.tracing import UntraceableError, source_line

Dims = tuple[Dim, ...]
Result = Dims | list[Dims] | None
"""What a rule returns: the dimensions of the output; a list for several; ``None`` for no tensor."""

Rule = Callable[["Call"], Result]


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: its dimensions, its content where that is a constant, and its dtype."""

    dims: Dims
    constant: Tensor | None = None
    dtype: torch.dtype | None = None

    @property
    def is_mask(self) -> bool:
        """Whether it chooses places by being true there; an index names them.

        Raises ``ValueError`` where the dtype is not known.
        """
        if self.dtype is None:
            raise ValueError("an index of unknown dtype")
        return self.dtype in (torch.bool, torch.uint8)


@dataclass(frozen=True, eq=False)
class Grouping:
    """An index of ``tokens`` tells one of ``experts``, by the ends of the groups, ``ends``."""

    tokens: Dim
    experts: Dim
    ends: Value


@dataclass
class Notes:
    """Every value seen, hidden intermediates included; they show which leaves stand together.

    ``groupings`` are the dimensions in which an index of another one is implied.
    """

    values: list[Dims] = field(default_factory=list)
    groupings: list[Grouping] = field(default_factory=list)

    def group(self, tokens: Dim, experts: Dim, ends: Value) -> None:
        """Note that tokens are grouped by experts."""
        self.groupings.append(Grouping(tokens, experts, ends))

    def __add__(self, other: Notes) -> Notes:
        return Notes(self.values + other.values, self.groupings + other.groupings)

    def add(self, dims: Iterable[Dim]) -> None:
        """Note one value."""
        self.values.append(tuple(dims))


@dataclass(frozen=True)
class Call:
    """One use of an operator.

    ``arguments`` go by the names of the operator's schema, tensors among them as ``Value``.
    ``shapes`` are those of the outputs, ``used`` the numbers of the outputs that something reads,
    and ``where`` is the user's line. A rule adds what exists only inside the operator to ``notes``.
    """

    name: str
    arguments: dict[str, Any]
    shapes: list[tuple[int, ...]]
    used: frozenset[int]
    where: str
    notes: Notes

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) output."""
        return self.shapes[0]

    def dims(self, argument: str) -> Dims:
        """The dimensions of a tensor argument."""
        value = self.arguments[argument]
        if not isinstance(value, Value):
            raise ValueError(f"argument {argument} of {self.name} is no tensor")
        return value.dims

    def tensors(self) -> list[Value]:
        """Every tensor argument, those in lists too."""
        found: list[Value] = []
        for value in self.arguments.values():
            found.extend(v for v in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(v, Value))
        return found

    def why(self, text: str) -> str:
        """A reason to pin, with the user's line."""
        return f"{text}{self.where}"


class Dataflow:
    """Runs rules over a graph, and notes every value.

    ``rules`` maps an operator's name, such as ``"conv2d"``, to its rule; ``pointwise`` is the rule
    of everything that PyTorch tags as pointwise.
    """

    def __init__(self, rules: dict[str, Rule], pointwise: Rule) -> None:
        self.notes = Notes()
        self._rules = rules
        self._pointwise = pointwise

    def run(self, graph: GraphModule, inputs: Sequence[Any], depth: int = 0) -> list[Any]:
        """The outputs of ``graph``; ``inputs`` holds a ``Value`` or object for each placeholder."""
        values: dict[Node, Any] = {}
        remaining = iter(inputs)
        changing = any(map(_writes_whole_numbers, graph.graph.nodes))
        live = live_nodes(graph)
        for node in graph.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                value = next(remaining) if node.op == "placeholder" else _attribute(graph, str(node.target))
                value = Value(value.dims) if changing and isinstance(value, Value) else value
                values[node] = _typed(value, node)
            elif node.op == "output":
                return [_lookup(values, out) for out in torch.utils._pytree.tree_leaves(node.args[0])]
            elif node in live:
                values[node] = _typed(self._node(node, values, depth), node)
        raise ValueError("a graph without an output")

    def _node(self, node: Node, values: dict[Node, Any], depth: int) -> Any:
        args: Any = torch.fx.node.map_arg(node.args, lambda n: values[n])
        kwargs: Any = torch.fx.node.map_arg(node.kwargs, lambda n: values[n])
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not isinstance(node.target, torch._ops.OpOverload):
            return self._higher_order(node, list(args), depth)
        call = _call(node, args, kwargs, self.notes)
        result = self._dims(node, call, values, depth)
        many = isinstance(node.meta.get("val"), (list, tuple))
        outputs = result if isinstance(result, list) else [result]
        made = [Value(dims) if dims is not None else None for dims in outputs]
        if not call.shapes:  # a plain number, or nothing
            return node.meta.get("val")
        for value in made:
            if value is not None:
                self._note_output(value, call)
        if call.name in _KEEPS_CONTENT and isinstance(first := next(iter(call.arguments.values())), Value):
            return Value(made[0].dims if made[0] else (), first.constant)
        return made if many else made[0]

    def _note_output(self, value: Value, call: Call) -> None:
        """Note an output. If it has new pinned dimensions, note it without them too.

        A new pinned dimension takes the place of one whose order mattered, and index 3 of the new
        one is not index 3 of the old one. If the two are unified later (``x + x.flip(1)``), nothing
        may depend on an index that could mean either.
        """
        self.notes.add(value.dims)
        known = {leaf for given in call.tensors() for dim in given.dims for leaf in leaves_of(dim)}
        rest = [dim for dim in value.dims if all(leaf in known or not leaf.reason for leaf in leaves_of(dim))]
        if len(rest) < len(value.dims):
            self.notes.add(rest)

    def _dims(self, node: Node, call: Call, values: dict[Node, Any], depth: int) -> Result:
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        rule = self._rules.get(call.name) or self._rules.get(call.name.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in target.tags:
            rule = self._pointwise
        if not call.shapes and not call.tensors():
            return None
        try:
            return self._unknown(node, call, values, depth) if rule is None else _checked(rule(call), call)
        except UntraceableError:
            raise
        except Exception as error:  # a rule that fails costs efficacy, never correctness
            return self._pin_all(call, f"{call.name}, whose rule does not cover this use of it ({error}),")

    def _unknown(self, node: Node, call: Call, values: dict[Node, Any], depth: int) -> Result:
        """An operator without a rule, taken apart by PyTorch; pinned if that is not possible."""
        inner = _decomposed(node) if depth < 4 else None
        if inner is None:
            return self._pin_all(call, f"{call.name}, an operator without a rule,")
        outputs = self.run(inner, [values[n] for n in _tensor_nodes(node)], depth + 1)
        return _checked([out.dims for out in outputs if isinstance(out, Value)], call)

    def _pin_all(self, call: Call, what: str) -> Result:
        reason = call.why(f"touched by {what}")
        for value in call.tensors():
            for dim in value.dims:
                pin(dim, reason)
        return [tuple(fresh(size, reason) for size in shape) for shape in call.shapes]

    def _higher_order(self, node: Node, args: list[Any], depth: int) -> Any:
        bodies = [arg for arg in args if isinstance(arg, GraphModule)]
        name = getattr(node.target, "__name__", str(node.target))
        if name in ("wrap_with_set_grad_enabled", "wrap_with_autocast") and len(bodies) == 1:
            return self.run(bodies[0], args[args.index(bodies[0]) + 1 :], depth)
        reason = f"touched by {name}, an operator without a rule,{_where(node)}"
        for value in torch.utils._pytree.tree_leaves(args):
            if isinstance(value, Value):
                for dim in value.dims:
                    pin(dim, reason)
        return torch.utils._pytree.tree_map(
            lambda val: (
                Value(tuple(fresh(int(size), reason) for size in val.shape)) if isinstance(val, Tensor) else val
            ),
            node.meta.get("val"),
        )


def _typed(value: Any, node: Node) -> Any:
    """``value``, one or a list, with the dtypes that the node has in the graph."""
    val = node.meta.get("val")
    if isinstance(value, list) and isinstance(val, (list, tuple)) and len(val) == len(value):
        return [_of_dtype(each, like) for each, like in zip(value, val, strict=True)]
    return _of_dtype(value, val)


def _of_dtype(value: Any, like: Any) -> Any:
    if isinstance(value, Value) and isinstance(like, Tensor) and value.dtype is None:
        return replace(value, dtype=like.dtype)
    return value


def live_nodes(graph: GraphModule) -> set[Node]:
    """The nodes that an output, or something written in place, depends on.

    The others were computed for their shape, or to be asserted.
    """
    live: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if node in live or node.op == "output" or _has_effects(node):
            live.update((node, *node.all_input_nodes))
    return live


def _has_effects(node: Node) -> bool:
    """Whether a node may write into what others read: an operator in place, or a graph within the graph."""
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable
    return isinstance(node.target, torch._ops.HigherOrderOperator)


_KEEPS_CONTENT = frozenset({"lift_fresh_copy", "lift_fresh", "clone", "detach", "alias", "_to_copy", "to"})


def _checked(result: Result, call: Call) -> Result:
    """The result; ``ValueError`` if its sizes are not those of the output: the rule is wrong."""
    outputs = result if isinstance(result, list) else [result]
    for dims, shape in zip(outputs, call.shapes, strict=False):
        if dims is not None:
            found = tuple(map(size_of, dims))
            if found != shape:
                raise ValueError(f"it says {found} of an output of shape {shape}")
    return result


def _call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], notes: Notes) -> Call:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(args):
            arguments[argument.name] = args[position]
        elif argument.name in kwargs:
            arguments[argument.name] = kwargs[argument.name]
        else:
            arguments[argument.name] = argument.default_value if argument.has_default_value() else None
    name = str(target._schema.name).partition("::")[2]
    val = node.meta.get("val")
    vals = val if isinstance(val, (list, tuple)) else [val]
    shapes = [_sizes(v, node) for v in vals if isinstance(v, Tensor)]
    used = frozenset(user.args[1] for user in node.users if user.target is operator.getitem and user.users)
    return Call(name, arguments, shapes, used, _where(node), notes)  # type: ignore[arg-type]


def _sizes(tensor: Tensor, node: Node) -> tuple[int, ...]:
    if not all(isinstance(size, int) for size in tensor.shape):
        raise UntraceableError(
            f"The shape of the result of {node.target} depends on the values of a tensor"
            f"{_where(node)}. Write that line so that shapes are fixed, or pass a submodule without "
            "it to permute"
        )
    return tuple(tensor.shape)


def _where(node: Node) -> str:
    line = source_line(node.meta.get("stack_trace"))
    return f" at {line}" if line else ""


def _lookup(values: dict[Node, Any], out: Any) -> Any:
    return values[out] if isinstance(out, Node) else out


def _attribute(graph: GraphModule, target: str) -> Any:
    found: Any = graph
    for name in target.split("."):
        found = getattr(found, name)
    if isinstance(found, Tensor):
        return Value(tuple(fresh(size, "a constant of the model") for size in found.shape), found)
    return found


def _writes_whole_numbers(node: Node) -> bool:
    """Whether a node writes into integers other than a counter: they are no constant index then."""
    if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable and node.args):
        return False
    place = node.args[0]
    written = place.meta.get("val") if isinstance(place, Node) else None
    counter = isinstance(place, Node) and place.op == "placeholder" and isinstance(written, Tensor) and not written.ndim
    return isinstance(written, Tensor) and not written.is_floating_point() and not counter


def _tensor_nodes(node: Node) -> list[Node]:
    """The arguments of a node that are nodes, in order, repeated as often as they occur."""
    return [item for item in torch.utils._pytree.tree_leaves((node.args, node.kwargs)) if isinstance(item, Node)]


def _decomposed(node: Node) -> GraphModule | None:
    """One operator as a graph of simpler ones, with its tensor arguments as placeholders.

    ``None`` when PyTorch cannot take it apart.
    """
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    flat, spec = torch.utils._pytree.tree_flatten((node.args, node.kwargs))
    fakes = [item.meta.get("val") for item in _tensor_nodes(node)]
    if not fakes or not all(isinstance(fake, Tensor) for fake in fakes):
        return None

    def apply(*tensors: Tensor) -> list[Tensor]:
        remaining = iter(tensors)
        filled = [next(remaining) if isinstance(item, Node) else item for item in flat]
        args, kwargs = torch.utils._pytree.tree_unflatten(filled, spec)
        return [out for out in torch.utils._pytree.tree_leaves(target(*args, **kwargs)) if isinstance(out, Tensor)]

    try:
        shapes = [torch.empty(fake.shape, dtype=fake.dtype, device="meta") for fake in fakes if fake is not None]
        table: Any = get_decompositions([target])
        inner = make_fx(apply, table, tracing_mode="fake")(*shapes)
    except Exception:  # whatever the decomposition raises: then the operator is unknown
        return None
    for made in inner.graph.nodes:
        made.meta.setdefault("stack_trace", node.meta.get("stack_trace"))
        if made.target is target:
            return None
    return inner
