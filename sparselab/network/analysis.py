"""From a model and example inputs to the dimensions of its parameters and buffers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.layers import is_wrapped
from sparselab.core.models import evaluating, in_mode
from sparselab.core.writing import why_not_written
from sparselab.network import rules_experts, rules_linear, rules_norm, rules_scatter  # noqa: F401  (they register themselves)
from sparselab.network.axes import Dim, Leaf, fresh, leaves_of, pin
from sparselab.network.constants import constants_of, pin_constants_nobody_reads
from sparselab.network.dataflow import Dataflow, Dims, Grouping, Notes, Value, live_nodes
from sparselab.network.examples import several
from sparselab.network.outputs import OutputChoice
from sparselab.network.rules import RULES, pointwise
from sparselab.network.tracing import Graph, UntraceableError, trace
from sparselab.network.unpacking import unpack


@dataclass(frozen=True)
class Member:
    """A parameter or buffer of the model, under all the ``names`` that the model has for it.

    ``dims`` are its dimensions. ``content`` is the tensor itself where it holds integers, which may
    be an index, else ``None``.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dims: Dims
    content: Tensor | None = None

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]


@dataclass(frozen=True)
class Analysis:
    """What the walk over the graphs found out.

    ``members`` are the parameters and buffers, ``values`` the dimensions of every value met on the
    way, and ``groupings`` what an index of one dimension tells of another (``free_axes`` reads
    both). ``lowest`` is the lowest floating-point dtype that the model's own code asks for.
    ``outputs`` are those of every graph, ``held`` the leaves that keep their order for the sake of
    chosen outputs and for no other reason, and ``unreached`` the parameters that no example reaches.
    ``training`` is why the path of training mode could not be traced, which might reach them.
    """

    members: tuple[Member, ...]
    values: tuple[Dims, ...]
    lowest: torch.dtype | None = None
    groupings: tuple[Grouping, ...] = ()
    outputs: tuple[Output, ...] = ()
    held: frozenset[Leaf] = frozenset()
    unreached: tuple[str, ...] = ()
    training: str | None = None


@dataclass(frozen=True, eq=False)
class Output:
    """A tensor that the model returns: its path, the entry of the output it is in, its dimensions.

    ``chosen`` says whether it has to stay as it is, ``example`` on which of them it was returned,
    and ``training`` whether that was in training mode.
    """

    name: str
    entry: str
    dims: Dims
    chosen: bool
    example: int = 0
    training: bool = False


def analyse(model: nn.Module, example_inputs: Any, choice: OutputChoice | None = None) -> Analysis:
    """The dimensions of every parameter and buffer of ``model``, which is not wrapped (``unwrap``).

    A list of ``example_inputs`` is several examples. Each is traced in evaluation mode, and in
    training mode too if some parameters occur in none of them (an auxiliary head). Members that
    occur in neither are pinned, and so are the outputs of the ``choice`` (``None``: all). Where
    training mode cannot be traced, no example reaches what evaluation does not use. The model
    is left as it was. Raises ``UntraceableError``, and ``ValueError`` for outputs that are not there.
    """
    choice = choice or OutputChoice()
    examples = several(example_inputs)
    constants = constants_of(model)
    members = _members(model, constants)
    by_name = _by_name(members, constants, model)
    met: set[str] = set()
    with evaluating(model):
        graphs = [trace(model, example, choice) for example in examples]
    choice.check(graphs)
    walks = [_walk(graph, by_name, constants, met, number) for number, graph in enumerate(graphs)]
    unused = [name for name, _ in model.named_parameters() if by_name[name].name not in met]
    stopped, more = None, set[str]()
    if unused:
        try:
            with in_mode(model, training=True):
                in_training = [trace(model, example, choice) for example in examples]
            walks += [_walk(graph, by_name, constants, more, n, training=True) for n, graph in enumerate(in_training)]
            met |= more
        except UntraceableError as error:
            stopped = str(error)
    pin_constants_nobody_reads(model, {name: member.dims for name, member in by_name.items()})
    for member in members:
        if member.name not in met:
            for dim in member.dims:
                pin(dim, f"{member.name} is not used by the model on these inputs")
    outputs = tuple(output for walk in walks for output in walk.outputs)
    notes = sum((walk.notes for walk in walks), Notes())
    reached = met.union(*(walk.computed_with for walk in walks))
    return Analysis(
        tuple(members),
        tuple(notes.values + [member.dims for member in members]),
        min(filter(None, map(_lowest_dtype, graphs)), key=_bits, default=None),
        tuple(notes.groupings),
        outputs,
        _hold(outputs),
        tuple(name for name in unused if stopped or by_name[name].name not in reached),
        stopped,
    )


def _hold(outputs: Iterable[Output]) -> frozenset[Leaf]:
    """Pin the chosen outputs; what was free before."""
    chosen = [output for output in outputs if output.chosen]
    free = {leaf for output in chosen for dim in output.dims for leaf in leaves_of(dim) if leaf.reason is None}
    for output in chosen:
        for dim in output.dims:
            pin(dim, f"the model's output {output.name}".rstrip())
    return frozenset(free)


@dataclass(frozen=True, eq=False)
class _Walk:
    """What one graph says: every value in it, its outputs, and the members that anything is computed of.

    Those are more than what outputs depend on: of a result that nobody uses it is known that nobody does.
    """

    notes: Notes
    outputs: Sequence[Output]
    computed_with: frozenset[str]


def _walk(
    graph: Graph,
    by_name: dict[str, Member],
    constants: Mapping[str, Tensor],
    met: set[str],
    example: int,
    *,
    training: bool = False,
) -> _Walk:
    unpack(graph.module)
    live = live_nodes(graph.module)
    placeholders = [node for node in graph.module.graph.nodes if node.op == "placeholder"]
    held = {id(tensor): name for name, tensor in constants.items()}
    names = {key: held[id(tensor)] for key, tensor in graph.constants.items() if id(tensor) in held} | {**graph.tensors}
    met |= {by_name[names[node.name]].name for node in placeholders if node in live and node.name in names}
    inputs = [_placeholder(node, graph, names, by_name) for node in placeholders]
    flow = Dataflow(RULES, pointwise)
    found = flow.run(graph.module, inputs)
    outputs = [
        Output(path, _entry(path, graph.top_level), value.dims, place in graph.chosen, example, training)
        for place, (path, value) in enumerate(zip(graph.outputs, found, strict=True))
        if isinstance(value, Value)
    ]
    notes = Notes([value.dims for value in inputs] + flow.notes.values, flow.notes.groupings)
    computed_with = frozenset(by_name[names[n.name]].name for n in placeholders if n.users and n.name in names)
    return _Walk(notes, outputs, computed_with)


def _entry(path: str, entries: Sequence[str]) -> str:
    """The entry of the output that a path begins with; none for what a function made of it."""
    return next((entry for entry in entries if path == entry or path.startswith(f"{entry}.")), "")


def _placeholder(node: Any, graph: Graph, names: Mapping[str, str], by_name: dict[str, Member]) -> Value:
    if (name := names.get(node.name)) is not None:
        member = by_name[name]
        return Value(member.dims, member.content)
    content = graph.constants.get(node.name)
    reason = "a constant of the model" if content is not None else f"the model's input {node.name}"
    val = node.meta.get("val")
    shape = val.shape if isinstance(val, Tensor) else ()
    return Value(tuple(fresh(int(size), reason) for size in shape), content)


def _lowest_dtype(graph: Graph) -> torch.dtype | None:
    """The narrowest floating-point dtype that an operator is told to compute in."""
    asked = {
        argument
        for node in graph.module.graph.nodes
        if node.op == "call_function" and node.all_input_nodes
        for argument in (*node.args, *node.kwargs.values())
        if isinstance(argument, torch.dtype) and argument.is_floating_point
    }
    return min(asked, key=_bits, default=None)


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits


def _members(model: nn.Module, constants: Mapping[str, Tensor]) -> list[Member]:
    """Every parameter, persistent buffer and one of ``constants`` once, however many names it has.

    Two tensors are the same if they are the same place in memory. Tensors that share memory in any
    other way are pinned.
    """
    persistent = set(model.state_dict(keep_vars=True))
    named: list[tuple[str, Tensor]] = [*model.named_parameters(remove_duplicate=False)]
    named += [(name, buffer) for name, buffer in model.named_buffers(remove_duplicate=False) if name in persistent]
    named += constants.items()
    same: dict[Any, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in named:
        same[place_of(tensor)].append((name, tensor))
    sharing: dict[Any, int] = defaultdict(int)
    for place in same:
        sharing[place[0]] += 1
    members = []
    for place, group in same.items():
        tensor = group[0][1]
        shape = tuple(tensor.shape)
        content = None if tensor.is_floating_point() or tensor.is_complex() or tensor.is_meta else tensor
        names = [name for name, _ in group if name not in constants] or [name for name, _ in group]
        member = Member(tuple(names), shape, tuple(map(fresh, shape)), content)
        if is_wrapped(tensor):
            _pin_all(member.dims, f"{member.name} is held as a {type(tensor).__name__}, which cannot be moved")
        if sharing[place[0]] > 1:
            _pin_all(member.dims, f"{member.name} shares part of its memory with another tensor")
        if (reason := why_not_written(tensor)) is not None:
            _pin_all(member.dims, f"{member.name} stays as it is: {reason}")
        members.append(member)
    return members


def _by_name(members: Iterable[Member], constants: Mapping[str, Tensor], model: nn.Module) -> dict[str, Member]:
    """Every member under each of its names, and under those of constants that are the same tensor."""
    by_name = {name: member for member in members for name in member.names}
    tensors: dict[str, Tensor] = {**dict(model.named_buffers()), **dict(model.named_parameters()), **constants}
    at = {place_of(tensors[member.name]): member for member in members if member.name in tensors}
    return by_name | {name: at[place_of(tensor)] for name, tensor in constants.items() if name not in by_name}


def _pin_all(dims: tuple[Dim, ...], reason: str) -> None:
    for dim in dims:
        pin(dim, reason)


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Where in memory a tensor lies: equal for two tensors exactly if they share all numbers.

    One that is made of others (quantised, sharded) lies nowhere itself, and is known as an object.
    """
    if tensor.is_meta or tensor.numel() == 0 or is_wrapped(tensor):
        return (id(tensor),)
    if tensor.layout is not torch.strided:  # nowhere that it could be written
        return (id(tensor),)
    storage = tensor.untyped_storage().data_ptr()
    return (storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
