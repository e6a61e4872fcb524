"""What each expert of a packed weight is given when its module is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparselab.core.experts import is_parallel, is_routed

_INTO = ("gate_up_proj", "up_proj")
"""The weights that see what their module is given; the others see what these make of it."""


@dataclass(frozen=True, eq=False)
class SeenByExperts:
    """The inputs of each expert, ``(tokens, channels)``, in the order of the experts.

    ``tokens`` has for each the numbers of its tokens among all that the module was called with,
    whose shape without channels is ``positions``.
    """

    inputs: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    positions: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return self.inputs[0].device

    def by_expert(self, counted: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        """The inputs, with zeros where tokens do not count (``counted``, by position), and which count."""
        if counted is None:
            return self.inputs, (None,) * len(self.inputs)
        each = tuple(counted.flatten()[numbers] for numbers in self.tokens)
        zeroed = tuple(torch.where(those[:, None], seen, 0) for seen, those in zip(self.inputs, each, strict=True))
        return zeroed, each


def seen_by_experts(module: nn.Module, own: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> SeenByExperts:
    """What the experts in the parameter ``own`` of ``module`` are given in a call of it.

    For the inputs of a second projection the first one is computed once more, as its library does.
    """
    called = list(inspect.signature(module.forward).bind(*args, **kwargs).arguments.values())
    states = cast("Tensor", called[0]).detach()
    flat = states.reshape(-1, states.shape[-1])
    tokens = _tokens(module, flat, called[1:])
    inputs = tuple(flat[numbers] for numbers in tokens)
    if own not in (*_INTO, "weight"):
        inputs = tuple(_between(module, number, seen) for number, seen in enumerate(inputs))
    return SeenByExperts(inputs, tokens, tuple(states.shape[:-1]))


def _tokens(module: nn.Module, flat: Tensor, rest: list[Any]) -> tuple[Tensor, ...]:
    """The numbers of the tokens that each expert is given."""
    if is_routed(module):
        chosen = cast("Tensor", rest[0])  # (tokens, experts for each)
        return tuple((chosen == number).any(-1).nonzero().flatten() for number in range(_count(module)))
    everything = torch.arange(len(flat), device=flat.device)
    if is_parallel(module):
        return tuple(torch.split(everything, list(rest[0])))
    return everything.chunk(_count(module))  # Llama 4 calls with all tokens, once for every expert


def _count(module: nn.Module) -> int:
    return len(cast("Tensor", module.down_proj))


def _between(module: nn.Module, number: int, seen: Tensor) -> Tensor:
    """What the first projection of an expert and its activation make of the tokens that it has ``seen``."""
    experts = cast("Any", module)
    gated = hasattr(experts, "gate_up_proj")
    name = "gate_up_proj" if gated else "up_proj"
    weight = getattr(experts, name)[number].detach()
    out = seen @ (weight if getattr(experts, "is_transposed", True) else weight.T)
    if (bias := getattr(experts, f"{name}_bias", None)) is not None:
        out = out + bias[number].detach()
    if not gated:
        return cast("Tensor", experts.act_fn(out))
    if hasattr(experts, "_apply_gate"):
        return cast("Tensor", experts._apply_gate(out))
    gate, up = out.chunk(2, dim=-1)
    return cast("Tensor", up * experts.act_fn(gate))
