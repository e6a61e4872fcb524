"""Which weights a pattern can prune, and for each of the others the reason why not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from sparselab.core.layers import LayerWeight, ModelWeight, Names, TiedWeight
from sparselab.core.readable import FLATTENED, why_unreadable
from sparselab.core.registry import unknown_name
from sparselab.core.sharding import is_flattened
from sparselab.core.weight_matrix import channel_dim_of, is_packed, matrix_dims
from sparselab.core.writing import why_not_written
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
    if (reason := why_not_written(weight)) is not None:
        return reason
    return _RULES[rule](module, weight, channel_dim, calculate)


def why_not_pruned(
    weight: ModelWeight, pattern: AnyPattern | None, rule: str = "divisible", names: Names | None = None
) -> str | None:
    """Why ``pattern`` does not prune ``weight`` in its model, or ``None`` when it does.

    As ``why_not``, and what the user's ``names`` say. The adapters of LoRA are pruned only where
    ``names`` spell them out: they are small, trained while the rest is frozen, and merged in the end.
    """
    if isinstance(weight, TiedWeight):
        return f"tied: the same tensor as {weight.layer.name}, which has a row of its own"
    if names is not None and (reason := names.why_not(weight)) is not None:
        return reason
    if is_adapter(weight) and not (names is not None and names.spell(weight, _ADAPTER)):
        return "a LoRA adapter: pruned only where include names it (include=['*lora_A*'])"
    channel_dim = weight.channel_dim if isinstance(weight, LayerWeight) else None
    found = why_not(weight.module, weight.attribute, pattern, rule, channel_dim=channel_dim)
    return found if channel_dim is not None else f"{found}: {_what_it_is(weight)}"


def is_adapter(weight: ModelWeight) -> bool:
    """Whether ``weight`` is a part of a low-rank adapter, as PEFT and torchtune name them."""
    return any(part.lower().startswith(_ADAPTER) for part in weight.name.split("."))


_ADAPTER = "lora_"


def _what_it_is(weight: ModelWeight) -> str:
    """What a weight is that no layer is known to multiply its inputs with, and how to have it pruned."""
    module, kind = weight.module, type(weight.module).__name__
    if is_raw(weight):
        trace = ", and so do example_inputs of a Sparsifier if a trace shows it" if may_be_packed(weight) else ""
        return (
            "a raw parameter, and which of its dimensions holds input channels is not known; "
            f"custom={{{kind}: {{'{weight.attribute}': DIMENSION}}}} says so, and prunes it{trace}"
        )
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "the rows of an embedding are looked up, not multiplied"
    if isinstance(module, nn.Bilinear):
        return "it has two dimensions of input channels, 1 and 2; custom={Bilinear: {'weight': 1}} chooses the first"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return f"a recurrent layer; custom={{{kind}: ['{weight.attribute}']}} prunes it"
    if isinstance(module, ParametrizationList):
        return "a parametrisation computes another tensor from it"
    if "bias" in weight.attribute:
        return "a bias is added, not multiplied"
    return "a norm scales each entry by itself"


def is_raw(weight: ModelWeight) -> bool:
    """Whether nothing is known of ``weight`` but that it is a parameter of its module."""
    known = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, ParametrizationList)
    named = "bias" in weight.attribute or "norm" in type(weight.module).__name__.lower()
    return not (isinstance(weight, (LayerWeight, TiedWeight)) or isinstance(weight.module, known) or named)


def may_be_packed(weight: ModelWeight) -> bool:
    """Whether a raw ``weight`` may be several matrices in one parameter, which a trace can tell."""
    return is_raw(weight) and weight.weight.ndim == 3 and len(weight.weight) > 1


def _divisible(module: nn.Module, weight: Tensor, channel_dim: int, calculate: MaskCalculator | None) -> str | None:
    _, output_dim, channels_at = matrix_dims(weight.ndim, channel_dim)
    channels, outputs = weight.shape[channels_at], weight.shape[output_dim]
    conv_groups = 1 if is_packed(weight.ndim, channel_dim) else getattr(module, "groups", 1)
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
    _, *packed = matrix_dims(weight.ndim, channel_dim)
    dims = packed if is_packed(weight.ndim, channel_dim) else (0, 1)
    for dim, multiple in zip(dims, (8, 16), strict=True):
        if weight.shape[dim] % multiple:
            return f"size({dim}) = {weight.shape[dim]} is not a multiple of {multiple}"
    return _divisible(module, weight, channel_dim, calculate)


_RULES: dict[str, Callable[[nn.Module, Tensor, int, MaskCalculator | None], str | None]] = {
    "divisible": _divisible,
    "asp": _asp,
}
