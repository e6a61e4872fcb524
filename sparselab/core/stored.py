"""The weights in whatever holds them: state dicts, checkpoints around them, files, exported programs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram

from sparselab.core.entries import MadeOf, other_masks, own_masks, parametrised
from sparselab.core.files import read_checkpoint
from sparselab.core.layers import is_wrapped
from sparselab.core.optimizers import MOMENTS
from sparselab.core.sharding import is_sharded, whole
from sparselab.core.shards import Shards
from sparselab.core.tensor_files import TensorFile


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight as it is stored.

    ``channel_dims`` are the dimensions that may be its input channels, the likeliest first: a bare
    tensor does not tell. ``how`` says what the values were made of, where they are not simply those
    of an entry. ``unreadable`` says why there are none to judge; then ``weight`` has only a shape
    and a dtype. ``unjudged`` says why there are no ``channel_dims`` to judge along.
    """

    name: str
    weight: Tensor
    channel_dims: tuple[int, ...]
    how: str = ""
    unreadable: str = ""
    unjudged: str = ""


# ------------------------------------------------------------------------- which mapping holds them


def state_in(held: Any, entry: str | None = None) -> Mapping[str, Any]:
    """The one state dict in ``held``: a mapping, the path of a checkpoint, or an ``ExportedProgram``.

    It may lie deeper, as in ``{"model": state, "epoch": 3}``; optimizers' states are passed over.
    ``entry`` names the one that is meant where there are several: ``"ema"``, or ``"ema.model"``
    two levels down. A file is read without running code, a sharded checkpoint shard by shard.

    Raises ``ValueError`` where no state with weights is found, or several are.
    """
    if isinstance(held, (str, Path)):
        return _one_state(read_checkpoint(Path(held)), entry, str(held))
    if isinstance(held, ExportedProgram):
        return _one_state(dict(held.named_parameters()), entry, "the exported program")
    return _one_state(held, entry, "the state")


def _one_state(held: Any, entry: str | None, called: str) -> Mapping[str, Any]:
    if not isinstance(held, Mapping):
        raise ValueError(f"{called} holds a {type(held).__name__}, not a state dict")
    found = dict(_states(held))
    if entry is not None:
        if entry not in found:
            raise ValueError(f"{called} has no weights in {entry!r}; there are some in: {_listed(found)}")
        return found[entry]
    named = {place: state for place, state in found.items() if any(is_weight_name(name) for name in _names(state))}
    found = named or found
    if not found:
        raise ValueError(
            f"{called} holds no weights that can be judged (floating or int8 tensors of two or more "
            f"dimensions): {_summary(held)}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{called} holds weights in several places, {_listed(found)}: choose one, as by entry={_nested(found)!r} "
            f"(in a shell: --entry {_nested(found)})"
        )
    return next(iter(found.values()))


def _states(held: Mapping[Any, Any], place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with weights in ``held``, itself too, by the dotted path that leads there."""
    if isinstance(held, (TensorFile, Shards)):  # reading them to look inside would cost time, and they are flat
        yield place, held
        return
    if {"state", "param_groups"} <= set(held):  # an optimizer
        return
    if any(True for _ in stored_weights(held)):
        yield place, held
    for name, value in held.items():
        if isinstance(value, Mapping) and isinstance(name, str):
            yield from _states(value, f"{place}.{name}" if place else name)


def _names(state: Mapping[str, Any]) -> list[str]:
    names = _texts(state)
    return [*(made.name for made in made_of(names)), *names]


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(repr(place) if place else "at the top" for place in found) or "none"


def _nested(found: Mapping[str, Any]) -> str:
    return next(place for place in found if place)


def _summary(held: Mapping[Any, Any]) -> str:
    """What is in a mapping without weights, in a few words."""
    if {"state", "param_groups"} <= set(held):
        return "it is the state of an optimizer; check the model's, model.state_dict()"
    if not held:
        return "it is empty"
    shown = [f"{name!r}: {_kind(value)}" for name, value in list(held.items())[:5]]
    return f"it has {', '.join(shown)}" + (f" and {len(held) - 5} more" if len(held) > 5 else "")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    way = " (check it by itself)" if isinstance(value, nn.Module) else ""
    return f"a {type(value).__name__}{way}"


# --------------------------------------------------------------------------- the weights of a state


def stored_weights(state: Mapping[str, Any]) -> Iterator[StoredWeight]:
    """Every weight in a state dict, in its order, one in memory at a time.

    That is each floating, complex, int8 or quantised tensor of two or more dimensions, and each
    weight that several entries stand for (``entries``). Masks and kept values of masked weights,
    optimizers' moments, bools and int64 (indices) are no weights; other integers are packed weights
    of another tool, which cannot be read.
    """
    names = _texts(state)
    made = {weight.entries[0]: weight for weight in made_of(names)}
    masked = {weight.name: weight.entries for weight in own_masks(names)}
    masks = {name: entries[1] for name, entries in masked.items()}
    hidden = {entry for weight in made.values() for entry in weight.entries}
    hidden |= {entry for entries in masked.values() for entry in entries[1:]}
    for name in names:
        if name in made:
            yield from _put_together(made[name], state)
        elif name not in hidden:
            for stored in _as_it_stands(name, state[name]):
                mask = state[masks[name]] if name in masks else None
                yield stored if mask is None else _under(stored, mask)


def made_of(names: Collection[str]) -> list[MadeOf]:
    """The weights that stand in several of the entries ``names``, those under masks of ``Sparsifier`` left out."""
    made = chain(parametrised(names), other_masks(names))  # what is a mask is not another parametrisation too
    return list({weight.entries[0]: weight for weight in made}.values())


def _texts(state: Mapping[Any, Any]) -> Collection[str]:
    """The names of a state that are texts, in order."""
    return dict.fromkeys(name for name in state if isinstance(name, str)).keys()


def _put_together(made: MadeOf, state: Mapping[str, Any]) -> Iterator[StoredWeight]:
    if made.value is None:
        for stored in _as_it_stands(made.name, state[made.entries[0]]):
            yield StoredWeight(made.name, stored.weight, stored.channel_dims, unreadable=made.how)
        return
    tensors = [part for entry in made.entries if isinstance(part := state[entry], Tensor)]
    unread = next(filter(None, map(_no_values, tensors)), "")
    if unread:
        yield StoredWeight(made.name, tensors[0], channel_dims(made.name, tensors[0].ndim), unreadable=unread)
        return
    for stored in _as_it_stands(made.name, made.of(state)):
        yield StoredWeight(stored.name, stored.weight, stored.channel_dims, made.how, stored.unreadable)


def _as_it_stands(name: str, value: Any) -> Iterator[StoredWeight]:
    """The weights, mostly one or none, of an entry."""
    if not isinstance(value, Tensor):
        yield from _packed(name, value)
        return
    if nn.parameter.is_lazy(value):
        yield StoredWeight(name, torch.empty(0, 0), (1,), unreadable="not initialised yet: run one forward pass first")
    elif value.is_nested:
        yield StoredWeight(name, torch.empty(0, 0), (1,), unreadable="a nested tensor, which is no matrix")
    elif value.ndim >= 2 and _may_be_weight(name, value):
        weight, how = _plain(value.detach())
        unreadable = _no_values(weight) or _packed_numbers(weight)
        yield StoredWeight(name, weight, channel_dims(name, weight.ndim), how or _unknown(name), unreadable)


_NO_WEIGHT = (torch.bool, torch.int64)


def _may_be_weight(name: str, value: Tensor) -> bool:
    if value.dtype in _NO_WEIGHT or name.rpartition(".")[2] in MOMENTS:
        return False
    counted = not (value.is_floating_point() or value.is_complex() or value.is_quantized or value.dtype == torch.int8)
    return not (counted and name.endswith(("bias", "mask")))  # causal masks of integers


def _plain(value: Tensor) -> tuple[Tensor, str]:
    """The values that a tensor stands for, as an ordinary one, and how they were had."""
    if is_sharded(value):
        return whole(value), ""
    if value.is_quantized:
        return value.dequantize(), f"{str(value.dtype).removeprefix('torch.')} of torch.ao.quantization"
    if value.layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        return value.to_dense(), f"held as {str(value.layout).removeprefix('torch.')}"
    return value, ""


def _no_values(value: Tensor) -> str:
    if is_wrapped(value) and not is_sharded(value):
        return f"held as a {type(value).__name__} (quantised or sharded): its values cannot be read here"
    if value.is_meta or isinstance(value, FakeTensor):
        return "on the meta device, without values: load its weights first"
    return ""


def _packed_numbers(value: Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    plain = value.is_floating_point() or value.is_complex() or value.dtype == torch.int8 or is_wrapped(value)
    if plain and not dtype.startswith("float4"):
        return ""
    return f"{dtype}: packed by another tool, so its zeros cannot be read"


def _under(stored: StoredWeight, mask: Tensor) -> StoredWeight:
    """``stored`` with a word where its mask has not been applied, as while weights fade."""
    if stored.unreadable:
        return stored
    if mask.shape != stored.weight.shape:
        raise ValueError(f"the mask of {stored.name!r} is {tuple(mask.shape)}, its weight {tuple(stored.weight.shape)}")
    mask = whole(mask)
    left = int((stored.weight != 0).masked_select(~mask.to(stored.weight.device, torch.bool)).sum())
    how = f"its mask takes {left} weights more: sl.finalized(state) applies it" if left else stored.how
    return StoredWeight(stored.name, stored.weight, stored.channel_dims, how, stored.unreadable)


def packed_weights(model: nn.Module) -> Iterator[StoredWeight]:
    """The weights that quantised modules of ``torch.ao.nn`` in ``model`` keep packed, not as parameters."""
    seen: set[str] = set()
    for prefix, module in model.named_modules():
        if not type(module).__module__.startswith("torch.ao.nn."):
            continue
        for name, value in module.state_dict(prefix=f"{prefix}." if prefix else "").items():
            if name not in seen and (not isinstance(value, Tensor) or value.is_quantized):
                seen.add(name)
                yield from _as_it_stands(name, value)


_PACKED = "_packed_params._packed_params"


def _packed(name: str, value: Any) -> Iterator[StoredWeight]:
    """The weights that ``torch.ao.quantization`` packs for its kernels: those of a Linear, or of a recurrent layer."""
    if name.endswith(_PACKED) and isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        yield _unpacked(f"{name.removesuffix(_PACKED)}weight", value[0])
    elif isinstance(value, torch.ScriptObject):
        weights = _of_script_object(value)
        base = name.removesuffix(".param").removesuffix("_packed_weight")
        for part, weight in zip(("weight_ih", "weight_hh"), weights):
            yield _unpacked(f"{base}.{part}" if len(weights) > 1 else name, weight)
        if not weights:
            why = "packed by torch.ao.quantization, and cannot be read here"
            yield StoredWeight(name, torch.empty(0, 0), (1,), unreadable=why)


def _unpacked(name: str, weight: Tensor) -> StoredWeight:
    plain, how = _plain(weight.detach())
    return StoredWeight(name, plain, channel_dims(name, plain.ndim), how or "packed by torch.ao.quantization")


def _of_script_object(value: Any) -> list[Tensor]:
    """The weights in packed parameters: of a Linear or a cell, or the two of a recurrent layer."""
    packed = [value] if hasattr(value, "unpack") else list(value.__getstate__()[0][-1])
    return [part.unpack()[0] for part in packed]


# ----------------------------------------------------------------------------------------- by name

_WEIGHT = re.compile(r".*weight(_(ih|hh|hr)(_l\d+(_reverse)?)?)?")
_RECURRENT = re.compile(r".*weight_(ih|hh|hr)(_l\d+(_reverse)?)?")
_EXPERTS = re.compile(r"(.*\.)?(gate_up_proj|gate_proj|up_proj|down_proj|w[123])")


def is_weight_name(name: str) -> bool:
    """Whether a layer's weight has such a name: ``fc.weight``, ``weight_ih_l0``, ``experts.down_proj``.

    >>> is_weight_name("0.in_proj_weight"), is_weight_name("pos_embed")
    (True, False)
    """
    return bool(_WEIGHT.fullmatch(name) or _EXPERTS.fullmatch(name) or name.endswith("_packed_params"))


def channel_dims(name: str, ndim: int) -> tuple[int, ...]:
    """The dimensions that may hold the input channels of a weight of this name, the likeliest first.

    A Linear and a transposed one (GPT-2's ``Conv1D``, transposed convolutions) have the same names,
    as have packed experts that are ``(experts, out, in)`` or ``(experts, in, out)``. Dimensions of
    these are counted from the back.

    >>> channel_dims("fc.weight", 2), channel_dims("rnn.weight_hh_l0", 2), channel_dims("experts.down_proj", 3)
    ((1, 0), (1,), (-1, -2))
    """
    if _RECURRENT.fullmatch(name) or name.endswith("in_proj_weight"):
        return (1,)
    if ndim == 2 or (_WEIGHT.fullmatch(name) and ndim > 3):
        return (1, 0)
    if _WEIGHT.fullmatch(name):
        return (1, 0, -1)
    return (-1, -2)


def _unknown(name: str) -> str:
    return "" if is_weight_name(name) else "not a layer's weight by its name"
