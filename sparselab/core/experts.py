"""Packed experts: modules that hold the matrices of many experts in one parameter.

What is known of them is what their libraries say of themselves; tests hold it against gradients.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

EXPERT_WEIGHTS = ("gate_up_proj", "up_proj", "down_proj")
"""What packed experts call their weights, the first two in place of one another."""

_PARALLEL = "ParallelExperts"
"""JetMoe's class name ends so: one ``weight`` ``(experts, outputs, channels)``."""


def is_routed(module: nn.Module) -> bool:
    """Whether ``module`` holds experts as ``transformers`` lays them out since version 5.

    Its ``use_experts_implementation`` says of every such module whether it has a gate and whether
    its matrices are transposed, and runs any of them by that.
    """
    return isinstance(getattr(module, "is_transposed", None), bool) and hasattr(module, "has_gate")


def is_llama4(module: nn.Module) -> bool:
    """Whether ``module`` holds the experts of Llama 4, which all see every token."""
    return _from_transformers(module, "Llama4TextExperts")


def is_parallel(module: nn.Module) -> bool:
    """Whether ``module`` is one weight of packed experts, called with tokens in the experts' order."""
    return _from_transformers(module, _PARALLEL)


def expert_channel_dim(module: nn.Module, name: str) -> int | None:
    """The input-channel dimension, -1 or -2, of packed experts; ``None`` for all else."""
    if is_parallel(module):
        return -1 if name == "weight" else None
    if name not in EXPERT_WEIGHTS or not (is_routed(module) or is_llama4(module)):
        return None
    parameter = module._parameters.get(name)
    if parameter is None or nn.parameter.is_lazy(parameter) or parameter.ndim != 3:
        return None
    return -2 if is_llama4(module) or cast("Any", module).is_transposed else -1


def told_by(module: nn.Module, parameter: Tensor, channel_dim: int) -> str:
    """How the input channels of packed experts are known, in a sentence for tables."""
    how = f"is_transposed={cast('Any', module).is_transposed}" if is_routed(module) else "as it multiplies them"
    return (
        f"{parameter.shape[0]} packed experts, input channels in dimension {channel_dim % parameter.ndim}: "
        f"{type(module).__name__} of transformers, {how}"
    )


def _from_transformers(module: nn.Module, ending: str) -> bool:
    return any(
        kind.__name__.endswith(ending) and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
    )
