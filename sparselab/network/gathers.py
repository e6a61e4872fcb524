"""Layers whose input is re-indexed at run time: one ``index_select``, as a hook of the layer.

The index is a buffer of the layer and the hook an object that names it, so both are copied, pickled,
moved to a device, traced and exported with the model. A state dict holds the index beside the weight
that needs it: a model without the hook refuses to load it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sparselab.core.layers import LayerWeight
from sparselab.core.moves import Indices
from sparselab.core.sharding import is_sharded
from sparselab.core.weight_matrix import channel_dim_of, is_gpt2_conv1d

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Gather:
    """The layer of the weight ``name`` is given its input channels in ``order``.

    ``new_input = old_input.index_select(channels, order)``, after what it was given already.

    >>> layer = nn.Linear(3, 3, bias=False)
    >>> _ = nn.init.eye_(layer.weight)
    >>> re_index(LayerWeight("weight", layer, "weight", 1), Gather("weight", np.array([2, 0, 1])))
    >>> layer(torch.tensor([5.0, 6.0, 7.0])).tolist()
    [7.0, 5.0, 6.0]
    """

    name: str
    order: Indices

    def inverse(self) -> Gather:
        """The gather that undoes this one."""
        return Gather(self.name, np.argsort(self.order))


@dataclass(frozen=True)
class ReIndexed:
    """The hook: a layer's input along ``dim``, counted from behind, by the index in its ``buffer``."""

    buffer: str
    dim: int

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call, the first of them re-indexed.

        Raises ``RuntimeError`` in a layer that has no such index.
        """
        index = getattr(module, self.buffer, None)
        if index is None:  # quantisation copies hooks to layers of its own, without their buffers
            raise RuntimeError(
                f"a {type(module).__name__} took the place of a layer whose input is gathered, without its index "
                f"{self.buffer!r}: apply the inverse of the plan first, or the plan after layers were replaced"
            )
        kwargs = kwargs or {}
        if args:
            return (args[0].index_select(self.dim, index), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: kwargs[name].index_select(self.dim, index)}


def gather_name(attribute: str) -> str:
    """The buffer beside the weight ``attribute`` that holds the index of its layer's input."""
    return f"__{attribute}_mma_gather"


def input_dim(module: nn.Module) -> int:
    """The dimension of the channels in the input of ``module``, counted from behind."""
    return -1 - len(module.kernel_size) if isinstance(module, _CONVOLUTIONS) else -1


def why_not_gathered(layer: LayerWeight) -> str | None:
    """Why the input of the weight's layer cannot be re-indexed by a hook, or ``None``."""
    module = layer.module
    if not isinstance(module, (nn.Linear, *_CONVOLUTIONS)) and not is_gpt2_conv1d(module):
        return f"the input of a {type(module).__name__} is not re-indexed: only Linear and convolution layers are"
    if getattr(module, "groups", 1) > 1:
        return "the groups of a grouped convolution read channels of their own"
    return "it is sharded" if is_sharded(layer.weight) else None


# -------------------------------------------------------------------------------------------------------- on a model


def gathered_layers(model: nn.Module, gathers: Iterable[Gather]) -> list[tuple[Gather, LayerWeight]]:
    """Every gather with the weight whose layer it is for.

    Raises ``ValueError`` where ``model`` has no such layer, its input cannot be re-indexed, or it has
    another number of channels.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for gather in gathers:
        prefix, _, attribute = gather.name.rpartition(".")
        module = modules.get(prefix)
        channel_dim = None if module is None else channel_dim_of(module, attribute)
        if module is None or channel_dim is None or module._parameters.get(attribute) is None:
            raise ValueError(
                f"the plan re-indexes the input of {gather.name!r}, which {type(model).__name__} does not have"
            )
        layer = LayerWeight(gather.name, module, attribute, channel_dim)
        if (reason := why_not_gathered(layer)) is not None:
            raise ValueError(f"the plan re-indexes the input of {gather.name!r}, which cannot be: {reason}")
        if (channels := layer.weight.shape[channel_dim]) != len(gather.order):
            raise ValueError(
                f"the plan re-indexes {len(gather.order)} input channels of {gather.name!r}; here it has {channels}"
            )
        found.append((gather, layer))
    return found


def re_index(layer: LayerWeight, gather: Gather) -> None:
    """Re-index the input of ``layer`` once more; an index that moves nothing is taken away with its hook."""
    module, name = layer.module, gather_name(layer.attribute)
    before = module._buffers.get(name)
    order = gather.order if before is None else before.cpu().numpy()[gather.order]
    _take_away(module, name)
    if (order != np.arange(len(order))).any():
        module.register_buffer(name, torch.from_numpy(order.copy()).to(layer.weight.device))
        module.register_forward_pre_hook(ReIndexed(name, input_dim(module)), with_kwargs=True)


def _take_away(module: nn.Module, name: str) -> None:
    """Take the index called ``name`` and its hook out of ``module``, if it has one."""
    module._buffers.pop(name, None)
    for number, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, ReIndexed) and hook.buffer == name:
            del module._forward_pre_hooks[number]
            module._forward_pre_hooks_with_kwargs.pop(number, None)


def forget_compiled() -> None:
    """Have ``torch.compile`` trace every model anew when it is called next.

    What it compiled before does not look at hooks again, and would run without those that came.
    """
    if "torch._dynamo" in sys.modules:  # else nothing was compiled
        torch.compiler.reset()
