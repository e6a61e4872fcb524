"""What the weight of each layer type is given when its module is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparselab.core.weight_matrix import channel_dim_of, is_packed
from sparselab.statistics.experts import seen_by_experts
from sparselab.statistics.positions import counted_at, without_others
from sparselab.statistics.windows import Windows

_PROJECTIONS = {
    "in_proj_weight": ("query", "key", "value"),
    "q_proj_weight": ("query",),
    "k_proj_weight": ("key",),
    "v_proj_weight": ("value",),
}


@dataclass(frozen=True, eq=False)
class Given:
    """What one weight was given in one call.

    ``inputs``: channels last, ``(*positions, channels)``, with zeros where a position does not
    count: one tensor, or for a packed ``in_proj_weight`` whose query, key and value differ one for
    each, and one for each expert of packed ones. ``counted``: for each a bool tensor ``(*positions,)``, or ``None`` where all positions
    count. ``windows`` says how a convolution looks at its input, ``(samples, *positions,
    channels)``.
    """

    layer: WeightUse
    inputs: tuple[Tensor, ...]
    counted: tuple[Tensor | None, ...]
    windows: Windows | None = None


@dataclass(frozen=True, eq=False)
class WeightUse:
    """One module that multiplies a weight with its inputs.

    ``name`` is the weight's name in the model (its first, where several modules share it), ``own``
    that in ``module``. ``also`` is the name by which this module has it.
    """

    name: str
    also: str
    module: nn.Module
    own: str
    weight: Tensor

    @property
    def channel_dim(self) -> int:
        """The weight's dimension of input channels: 0 or 1, of packed experts -1 or -2."""
        return 1 if "." in self.own else cast("int", channel_dim_of(self.module, self.own))

    @property
    def is_packed(self) -> bool:
        """Whether it holds the matrices of experts."""
        return is_packed(self.weight.ndim, self.channel_dim)

    @property
    def groups(self) -> int:
        """How many matrices the weight's first dimension holds."""
        if self.is_packed:
            return len(self.weight)
        if isinstance(self.module, nn.MultiheadAttention):
            return len(_PROJECTIONS.get(self.own, (None,)))
        return cast("int", getattr(self.module, "groups", 1)) if self.weight.ndim > 2 else 1

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], mask: Tensor | None) -> Given:
        """What the weight is given in a call of its module; the positions in ``mask`` count."""
        if isinstance(self.module, nn.MultiheadAttention):
            return self._attention(self.module, args, dict(kwargs), mask)
        if self.is_packed:
            seen = seen_by_experts(self.module, self.own, args, kwargs)
            counted = None if mask is None else counted_at(mask.to(seen.device), seen.positions, self.also)
            return Given(self, *seen.by_expert(counted))
        inputs = cast("Tensor", args[0] if args else next(iter(kwargs.values()))).detach()
        if self.weight.ndim == 2:  # Linear, and GPT-2's transposed one
            return self._masked((inputs,), mask)
        size = args[1] if len(args) > 1 else kwargs.get("output_size")
        windows = Windows.of(self.module, inputs, size)
        if inputs.ndim < self.weight.ndim:  # one sample by itself
            inputs, mask = inputs.unsqueeze(0), None if mask is None else mask.unsqueeze(0)
        return self._masked((inputs.movedim(1, -1),), mask, windows)

    def linear_input(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The very tensor that a Linear layer is called with; ``None`` for layers of other types."""
        if self.weight.ndim != 2 or isinstance(self.module, nn.MultiheadAttention):
            return None
        return cast("Tensor", args[0] if args else next(iter(kwargs.values())))

    def _attention(
        self, module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], mask: Tensor | None
    ) -> Given:
        if self.own == "out_proj.weight":
            inputs = [_attended(module, args, kwargs)]
        else:
            named = {**dict(zip(("query", "key", "value"), args)), **kwargs}
            inputs = [named[projection].detach() for projection in _PROJECTIONS[self.own]]
            if all(named[projection] is named[_PROJECTIONS[self.own][0]] for projection in _PROJECTIONS[self.own]):
                inputs = inputs[:1]
        swapped = not module.batch_first and inputs[0].ndim == 3
        return self._masked(tuple(inputs), mask, swapped=swapped)

    def _masked(
        self,
        inputs: tuple[Tensor, ...],
        mask: Tensor | None,
        windows: Windows | None = None,
        *,
        swapped: bool = False,
    ) -> Given:
        if mask is None:
            return Given(self, inputs, (None,) * len(inputs), windows)
        counted = tuple(counted_at(mask.to(x.device), x.shape[:-1], self.also, swapped=swapped) for x in inputs)
        zeroed = tuple(without_others(x, those) for x, those in zip(inputs, counted, strict=True))
        return Given(self, zeroed, counted, windows)


def weight_uses(model: nn.Module) -> Iterator[WeightUse]:
    """Every use of the weight of a Linear, convolution or attention layer or of packed experts, by module."""
    first_names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for own, weight in _weights(module):
            name = f"{prefix}.{own}" if prefix else own
            yield WeightUse(first_names.setdefault(id(weight), name), name, module, own, weight)


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of ``module`` whose inputs its own call tells."""
    for own, weight in module.named_parameters(recurse=False):
        if channel_dim_of(module, own) is not None:
            yield own, weight
    if isinstance(module, nn.MultiheadAttention):  # which never calls the module that holds this one
        yield "out_proj.weight", module.out_proj.weight


class _WithoutHooks(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


def _attended(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What the output projection is given.

    That is the output of the same attention with the identity in its place.
    """
    weight, bias = module.out_proj.weight, module.out_proj.bias
    instead = {"module.out_proj.weight": torch.eye(len(weight), dtype=weight.dtype, device=weight.device)}
    if bias is not None:
        instead["module.out_proj.bias"] = torch.zeros_like(bias)
    return cast("Tensor", torch.func.functional_call(_WithoutHooks(module), instead, args, kwargs)[0])
