"""From a weight and a pattern to its mask: layouts, ragged shapes and saliency, for every calculator alike."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparselab import saliency as saliency_module
from sparselab.core.patterns import Pattern, no_pattern
from sparselab.core.readable import why_unreadable
from sparselab.core.registry import Registry, unknown_name
from sparselab.core.sharding import is_sharded
from sparselab.core.weight_matrix import from_slices, to_slices
from sparselab.masks.calculator import MaskCalculator, completed, is_calculator
from sparselab.ops.masks import require_finite
from sparselab.saliency import Saliency

RAGGED = ("error", "pad", "skip")

AnyPattern: TypeAlias = str | Pattern | MaskCalculator
"""What names masks: a text, what it parses to, or the calculator itself."""


CALCULATORS: Registry[MaskCalculator] = Registry(
    "mask calculator",
    {
        "1d": "sparselab.masks.one_d:OneD",
        "2d_best": "sparselab.masks.two_d_best:TwoDBest",
        "2d_fast": "sparselab.masks.two_d_fast:TwoDFast",
        "2d_greedy": "sparselab.masks.two_d_greedy:TwoDGreedy",
        "vnm": "sparselab.masks.vnm:VNM",
        "unstructured": "sparselab.masks.unstructured:Unstructured",
        "row": "sparselab.masks.row:Row",
    },
    aliases={"1d_best": "1d", "2d_2approx": "2d_greedy"},
    group="sparselab.masks",
)


def calculator(pattern: AnyPattern) -> MaskCalculator:
    """The mask calculator that ``pattern`` names; an object that is one already is returned as it is.

    One that says only ``multiples`` and its masks is completed (``MaskCalculator``). Raises
    ``ValueError`` for a text outside the grammar, an unknown calculator (listing the valid ones)
    and sizes that the calculator cannot do.

    >>> calculator("2:4"), str(calculator("m4n2_2d_best")), calculator("64:2:8").multiples
    (OneD(n=2, m=4), 'm4n2_2d_best', (64, 8))
    """
    if is_calculator(pattern):
        return completed(pattern)
    if isinstance(pattern, str) and pattern.partition(",")[0].strip() in CALCULATORS:
        return completed(CALCULATORS.resolve(pattern))
    parsed = _parsed(pattern)
    cls = CALCULATORS.get(parsed.calculator)
    sizes = [size for size in (parsed.v, parsed.n, parsed.m) if size is not None]
    options: list[int] | list[float] = sizes or [parsed.density]
    try:
        return completed(cls(*options))
    except TypeError:
        wanted = _OPTIONS.get(len(dataclasses.fields(cls)), "other options")  # type: ignore[arg-type]
        raise ValueError(f"mask calculator {parsed.calculator!r} takes {wanted}; got '{parsed}'") from None


def searched_pattern(pattern: AnyPattern) -> Pattern:
    """The pattern that orders of channels are searched for: of a calculator, the one that it is ``searched_as``.

    Raises ``ValueError`` for what names no masks, and for a calculator that no order helps.

    >>> from sparselab.masks.one_d import OneD
    >>> str(searched_pattern(OneD(1, 4))), str(searched_pattern("2:4"))
    ('1:4', '2:4')
    """
    own = is_calculator(pattern) or (isinstance(pattern, str) and pattern.partition(",")[0].strip() in CALCULATORS)
    if not own:
        return _parsed(pattern)
    masks = calculator(pattern)
    if masks.searched_as is None:
        raise ValueError(
            f"a search of orders needs an N:M pattern such as '2:4', got '{masks}': no order of channels is better than "
            "another for it. Leave the channels as they are, or give the pattern to search orders for"
        )
    return Pattern.parse(masks.searched_as)


def _parsed(pattern: object) -> Pattern:
    """The pattern of what is no mask calculator, though it might have been one."""
    if not isinstance(pattern, (str, Pattern)):
        raise no_pattern(pattern, " or a mask calculator, an object with `multiples` that is called on scores")
    return Pattern.parse(pattern)


_OPTIONS = {1: "a density, e.g. 'row,0.5'", 2: "N and M, e.g. 'm4n2_1d'", 3: "V, N and M, e.g. '64:2:8'"}


def create_mask(
    weight: Tensor,
    pattern: AnyPattern = "m4n2_1d",
    *,
    channel_dim: int = 1,
    saliency: Saliency = "magnitude",
    ragged: str = "error",
    density: float | None = None,
) -> Tensor:
    """Which weights to keep: a bool tensor of the weight's shape, device and memory format.

    ``weight``: any float dtype and device; Linear ``(K, C)``, Conv ``(K, C, *S)``, or with ``channel_dim=0`` a
    transposed convolution or GPT-2's ``Conv1D``. Groups run along the input channels, at each kernel position on
    their own. ``ragged`` says what to do with channels (for 2d and V:N:M masks outputs too) that blocks do not
    divide: ``"error"``; ``"pad"``, as if filled up with zeros: the last short group keeps at most N of what is there;
    ``"skip"``, the last short group is left dense. ``density`` is accepted as ASP's callers pass it, and must be the
    pattern's own.

    Deterministic: between equal scores the lower index is kept, on every device. Raises ``ValueError`` for an unknown
    pattern, saliency or ``ragged``, for weights that are
    no dense floating-point tensors or have no values, for NaN and infinity, and for ragged shapes.

    >>> create_mask(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), "2:4")
    tensor([[False,  True, False,  True]])
    """
    calculate = calculator(pattern)
    if ragged not in RAGGED:
        raise unknown_name("ragged", str(ragged), RAGGED)
    _check_density(pattern, calculate, density)
    _check_weight(weight)
    if isinstance(saliency, str) and saliency == "magnitude":
        # Calculators rank by |score|, so plain magnitude needs no pass of its own over memory.
        scores = saliency_module.computable(weight.detach())
    else:
        scores = saliency_module.scores(weight, saliency)
    slices = to_slices(scores, channel_dim)
    if not slices.numel():
        return torch.empty_like(weight, dtype=torch.bool)
    mask = from_slices(_ragged_mask(slices, calculate, ragged, weight.shape), weight.shape, channel_dim)
    return mask if mask.stride() == weight.stride() else torch.empty_like(weight, dtype=torch.bool).copy_(mask)


def _check_weight(weight: Tensor) -> None:
    if not isinstance(weight, Tensor):
        raise ValueError(f"a weight is a torch tensor, got {type(weight).__name__}; torch.from_numpy makes one")
    if is_sharded(weight):
        raise ValueError("a weight is whole, got a sharded DTensor; weight.full_tensor() gathers it")
    if not weight.is_meta and (reason := why_unreadable(weight)) is not None:
        raise ValueError(f"no mask can be made of a weight that is {reason}")
    if not weight.is_floating_point():
        raise ValueError(f"a weight has a floating-point dtype, got {weight.dtype}")
    if weight.layout != torch.strided:
        raise ValueError(f"a weight is stored densely, got layout {weight.layout}; weight.to_dense() is")
    if weight.is_meta:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} on the meta device has no values; load them first")


def _check_density(pattern: AnyPattern, calculate: MaskCalculator, density: float | None) -> None:
    if density is not None and abs(calculate.density - density) > 1e-9:
        raise ValueError(
            f"density={density:g} contradicts pattern '{pattern}', which keeps {calculate.density:g}; leave density out"
        )


def _ragged_mask(slices: Tensor, calculate: MaskCalculator, ragged: str, shape: torch.Size) -> Tensor:
    """The mask of ``slices``; short groups at the edges are filled up with zeros, which lose every tie."""
    multiples = calculate.multiples
    short = [-size % multiple for size, multiple in zip(slices.shape[1:], multiples)]
    if not any(short):
        return calculate(slices)
    if ragged == "error":
        axis = "input channels" if short[1] else "outputs"
        size, multiple = (slices.shape[2], multiples[1]) if short[1] else (slices.shape[1], multiples[0])
        letter = "M" if multiple == multiples[1] else "V"
        raise ValueError(
            f"weight of shape {tuple(shape)}: {size} {axis} are not a multiple of {letter} = {multiple}; "
            "ragged='pad' prunes the last short group too, ragged='skip' leaves it dense"
        )
    outputs, channels = slices.shape[1:]
    if ragged == "pad":
        return calculate(pad(slices, (0, short[1], 0, short[0])))[:, :outputs, :channels]
    require_finite(slices)  # a calculator sees the whole groups only
    mask = torch.ones_like(slices, dtype=torch.bool)
    whole = slices[:, : outputs - outputs % multiples[0], : channels - channels % multiples[1]]
    if whole.numel():
        mask[:, : whole.shape[1], : whole.shape[2]] = calculate(whole)
    return mask
