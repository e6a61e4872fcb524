"""The tensors of a model by name, as a file has to hold them: each once, under all names that it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sparselab.core.entries import mask_name, own_masks
from sparselab.core.readable import why_unreadable
from sparselab.core.sharding import is_sharded


@dataclass(frozen=True, eq=False)
class Held:
    """A parameter or buffer, under every name that it has in its model."""

    names: tuple[str, ...]
    tensor: Tensor


def held_tensors(model: nn.Module, taker: str) -> list[Held]:
    """Every parameter and every buffer that a state dict has, in the order of the modules.

    Masks and the values that they took are left out. Raises ``ValueError``, naming the tensor, for
    one without values that can be read, and for a state dict that has something else too.
    """
    found: dict[object, tuple[list[str], Tensor]] = {}
    for name, tensor in _named(model):
        if (reason := _unreadable(tensor)) is not None:
            raise ValueError(f"{taker}: {name!r} is {reason}")
        found.setdefault(_place(tensor), ([], tensor))[0].append(name)
    held = [Held(tuple(names), tensor) for names, tensor in found.values()]
    _require_all(model, taker, {name for each in held for name in each.names})
    hidden = {entry for made in own_masks(dict(_named(model)).keys()) for entry in made.entries[1:]}
    return [each for each in held if not hidden.issuperset(each.names)]


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of ``Sparsifier`` in a model, by the names of their weights."""
    buffers = dict(_named(model))
    return {made.name: buffers[made.entries[1]] for made in own_masks(buffers.keys())}


def require_masked(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], taker: str) -> None:
    """Raise ``ValueError``, naming the first, where weights are not zero where their masks say so."""
    wrong = [name for name, mask in masks.items() if bool(tensors[name].detach().masked_select(~mask).any())]
    if wrong:
        raise ValueError(
            f"{taker}: {wrong[0]!r} and {len(wrong) - 1} more weights are not zero where their masks are (they fade, "
            "or their dense values were restored): call apply() or finalize() of their Sparsifier first"
        )


def mask_buffers_of(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The buffers with the masks of the weights called ``names``, as far as the model has them."""
    buffers = dict(model.named_buffers(remove_duplicate=False))
    beside = {name: _mask_buffer_name(name) for name in names}
    return {name: buffers[buffer] for name, buffer in beside.items() if buffer in buffers}


def _mask_buffer_name(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    return f"{module}.{mask_name(attribute)}" if module else mask_name(attribute)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, under every name."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and name not in module._non_persistent_buffers_set:
                yield start + name, tensor


def _place(tensor: Tensor) -> object:
    """What is the same for names of one tensor only."""
    if not tensor.numel():
        return id(tensor)
    return tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _unreadable(tensor: Tensor) -> str | None:
    if tensor.is_quantized:
        return "quantised, which no file here can hold: save the model before it is quantised"
    if (reason := why_unreadable(tensor)) is not None:
        return reason
    return "sharded (DTensor): gather it first, full_tensor()" if is_sharded(tensor) else None


def _require_all(model: nn.Module, taker: str, names: set[str]) -> None:
    others = [str(name) for name in model.state_dict() if name not in names]
    if others:
        raise ValueError(
            f"{taker}: the state dict of this {type(model).__name__} has {others[0]!r} and {len(others) - 1} more entries "
            "that are no parameters or buffers of its modules, so they would be lost: it has a format of its own, keep it"
        )
