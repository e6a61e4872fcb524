"""Which weights a pattern can prune, and for each of the others the reason why not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparselab.core.readable import FLATTENED, why_unreadable
from sparselab.core.registry import unknown_name
from sparselab.core.sharding import is_flattened
from sparselab.core.weight_matrix import channel_dim_of
from sparselab.masks.calculator import NOTHING_TO_CHOOSE, MaskCalculator
from sparselab.masks.create import AnyPattern, calculator


def why_not(
    module: nn.Module,
    name: str,
    pattern: AnyPattern | None = "2:4",
    rule: str = "divisible",
    *,
    channel_dim: int | None = None,
) -> str | None:
    """Why ``pattern`` cannot prune ``module``'s own parameter ``name``, or ``None`` when it can.

    ``pattern`` is ``None`` where a function of the user's own makes the masks: any shape will do.
    ``rule="divisible"`` asks the mask calculator: for N:M that groups fit, so the input channels
    are a multiple of M (for 2d masks the outputs too, for V:N:M the outputs of V).
    ``rule="asp"`` asks what ASP asks: float32 or float16, gradients on, ``size(0) % 8 == 0`` and
    ``size(1) % 16 == 0``.
    ``channel_dim`` is needed only for weights of layer types that
    ``weight_matrix`` does not know. Raises ``ValueError`` for an unknown rule.

    >>> why_not(nn.Linear(10, 8), "weight", "2:4")
    '10 input channels are not a multiple of 4'
    """
    if rule not in _RULES:
        raise unknown_name("eligibility rule", rule, _RULES)
    calculate = None if pattern is None else calculator(pattern)
    known = channel_dim_of(module, name)
    channel_dim = channel_dim if known is None else known
    if channel_dim is None:
        return "not the weight of a Linear, convolution or attention layer"
    if name not in module._parameters:
        if isinstance(held := vars(module).get(name), Tensor) and is_flattened(held):
            return FLATTENED
        return "computed by a parametrisation at every use: nothing stored here to prune"
    weight: Tensor | None = module._parameters[name]
    if weight is None:
        return "this layer has no such weight"
    unreadable = why_unreadable(weight, module)
    if unreadable is not None:
        return unreadable
    if not weight.is_floating_point():
        return f"dtype {weight.dtype} is not floating point"
    return _RULES[rule](module, weight, channel_dim, calculate)


def _divisible(module: nn.Module, weight: Tensor, channel_dim: int, calculate: MaskCalculator | None) -> str | None:
    channels, outputs = weight.shape[channel_dim], weight.shape[1 - channel_dim]
    conv_groups = getattr(module, "groups", 1)
    if channel_dim == 0 and conv_groups > 1:
        channels //= conv_groups
    if calculate is not None:
        reason = calculate.why_not(outputs, channels)
    else:
        reason = NOTHING_TO_CHOOSE if channels == 1 else None
    return f"depthwise: {reason}" if reason and channels == 1 and conv_groups > 1 else reason


def _asp(module: nn.Module, weight: Tensor, channel_dim: int, calculate: MaskCalculator | None) -> str | None:
    if weight.dtype not in (torch.float32, torch.float16):
        return f"dtype {weight.dtype} is neither float32 nor float16"
    if not weight.requires_grad:
        return "frozen: it does not require a gradient"
    for dim, multiple in ((0, 8), (1, 16)):
        if weight.shape[dim] % multiple:
            return f"size({dim}) = {weight.shape[dim]} is not a multiple of {multiple}"
    return _divisible(module, weight, channel_dim, calculate)


_RULES: dict[str, Callable[[nn.Module, Tensor, int, MaskCalculator | None], str | None]] = {
    "divisible": _divisible,
    "asp": _asp,
}
