"""Tensors of a model that are not in its state dict: tables of positions, say, computed when it is built.

They move with the channels that they are added to, as parameters do. But a fresh model has them in
the old order again, and a state dict would not say so. Therefore what has been moved is in the
state dict from then on, until it is moved back: to load that into a fresh model is an error then,
unless the plan was applied to it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from sparselab.core.layers import layer_weights
from sparselab.core.moves import Move
from sparselab.network.axes import Dim, leaves_of, pin


def constants_of(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point buffers that are not persistent, and tensors that are plain attributes, by name."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        own = {name: module._buffers.get(name) for name in sorted(module._non_persistent_buffers_set)}
        own |= {name: held for name, held in module.__dict__.items() if type(held) is Tensor}
        for name, tensor in own.items():
            if tensor is not None and tensor.is_floating_point():
                found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


def pin_constants_nobody_reads(model: nn.Module, dims: Mapping[str, Sequence[Dim]]) -> None:
    """Pin the constants, of which every tensor's ``dims`` are given by name, that no weight gains by.

    Those have no axis that a layer reads as its input channels.
    """
    read = {leaf for layer in layer_weights(model) for leaf in _read(dims.get(layer.name), layer.channel_dim)}
    for name in constants_of(model):
        for dim in dims.get(name, ()):
            for leaf in leaves_of(dim):
                if leaf not in read:
                    pin((leaf,), "a constant of the model")


def _read(dims: Sequence[Dim] | None, channel_dim: int) -> Iterable[object]:
    return () if dims is None else leaves_of(dims[channel_dim])


def keep_moved_constants(model: nn.Module, moves: Iterable[Move]) -> list[str]:
    """Put constants that ``moves`` have moved into the state dict, and take out those moved back.

    Returns the names of those that are in it now and were not.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    constants = constants_of(model)
    new: dict[str, None] = {}
    for move in moves:
        held = [(name, modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in move.names]
        if not all(name in constants or _note(attribute) in module.__dict__ for name, module, attribute in held):
            continue  # another name of what is in the state dict anyway
        for name, module, attribute in held:
            kept: _Kept = module.__dict__.get(_note(attribute)) or _Kept(attribute in module.__dict__)
            if kept.moves and _undoes(move, kept.moves[-1]):
                kept.moves.pop()
            else:
                kept.moves.append(move)
            if kept.moves and _note(attribute) not in module.__dict__:
                _register(module, attribute, module.__dict__.pop(attribute, None))
                module.__dict__[_note(attribute)] = kept
                new[name] = None
            elif not kept.moves:
                _unregister(module, attribute, plain=kept.plain)
                del module.__dict__[_note(attribute)]
                new.pop(name, None)
    return list(new)


@dataclass
class _Kept:
    """What a constant was before it was moved, a ``plain`` attribute or a buffer, and its ``moves`` since."""

    plain: bool
    moves: list[Move] = field(default_factory=list)


def _note(attribute: str) -> str:
    """The attribute beside a moved constant that says so."""
    return f"__{attribute}_mma_constant"


def _register(module: nn.Module, attribute: str, plain: Tensor | None) -> None:
    if plain is not None:
        module.register_buffer(attribute, plain)
    module._non_persistent_buffers_set.discard(attribute)


def _unregister(module: nn.Module, attribute: str, *, plain: bool) -> None:
    if plain:
        module.__dict__[attribute] = module._buffers.pop(attribute)
    else:
        module._non_persistent_buffers_set.add(attribute)


def _undoes(move: Move, done: Move) -> bool:
    """Whether ``move`` puts back what ``done`` moved."""
    same = (move.first, move.last, len(move.order)) == (done.first, done.last, len(done.order))
    return same and np.array_equal(done.order[move.order], np.arange(len(move.order)))
