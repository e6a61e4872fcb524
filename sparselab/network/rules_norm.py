"""Rules of what reduces: sums, softmax, norms, pooling and other windows over space."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from sparselab.network.axes import Concat, Dim, factors_of, fresh, join, parts_of, pin, size_of, take_tail, unify
from sparselab.network.dataflow import Call, Dims, Result, Value
from sparselab.network.rules import RULES, broadcast, ordered, pointwise, rule


@rule(
    *(
        "sum",
        "mean",
        "nansum",
        "nanmean",
        "amax",
        "amin",
        "aminmax",
        "prod",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "norm",
    ),
    *("linalg_vector_norm", "linalg_norm", "logsumexp", "any", "all", "count_nonzero", "frobenius_norm"),
)
def reduction(call: Call) -> Result:
    """Dimensions summed away: any order of them gives the same."""
    dims = call.tensors()[0].dims
    named = call.arguments.get("dim")
    axes = range(len(dims)) if named is None or named == [] else ((named,) if isinstance(named, int) else named)
    return _reduced(call, dims, {axis % len(dims) for axis in axes if dims})


def _reduced(call: Call, dims: Dims, axes: set[int]) -> Result:
    kept = tuple(dim for axis, dim in enumerate(dims) if axis not in axes)
    if call.arguments.get("keepdim"):
        kept = tuple(() if axis in axes else dim for axis, dim in enumerate(dims))
    return kept if len(call.shapes) == 1 else [kept] * len(call.shapes)


@rule("max", "min", "maximum", "minimum")
def extremum(call: Call) -> Result:
    """Elementwise for two tensors, a reduction for one. The order matters if the index is used."""
    if len(call.tensors()) == 2:
        return pointwise(call)
    if 1 in call.used:
        return ordered(call)
    return reduction(call)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin")
def softmax(call: Call) -> Result:
    """Elementwise, except for a sum over one dimension, which has only the others."""
    dims = call.dims("self")
    if dims:
        axis = call["dim"] % len(dims)
        call.notes.add((*dims[:axis], *dims[axis + 1 :]))
    return dims


# -------------------------------------------------------------------------------------------------------------- norms


@rule("batch_norm", "native_batch_norm", "cudnn_batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def batch_norm(call: Call) -> Result:
    """One statistic, scale and shift for each channel (dimension 1)."""
    dims = call.dims("input")
    channel = dims[1] if len(dims) > 1 else dims[0]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(value := call.arguments.get(name), Value):
            unify(channel, value.dims[0])
    call.notes.add(dims[:2] if call.name == "instance_norm" else (channel,))
    return dims if len(call.shapes) == 1 else [dims, *((channel,) if shape else ((),) for shape in call.shapes[1:])]


@rule("group_norm")
def group_norm(call: Call) -> Result:
    """Statistics over each group: channels may move within it, and groups as wholes."""
    dims, groups = call.dims("input"), int(call["num_groups"])
    channel = dims[1]
    for name in ("weight", "bias"):
        if isinstance(value := call.arguments.get(name), Value):
            unify(channel, value.dims[0])
    width = size_of(channel) // groups
    outer = blocks(channel, width)
    if outer is None:  # a group straddles the parts of a concat: try smaller blocks
        width = math.gcd(width, *_edges(channel))
        outer = blocks(channel, width) if width > 1 else None
        reason = call.why(f"cut across by the {groups} groups of group_norm")
        pin(channel if outer is None else outer, reason)
    call.notes.add((dims[0], () if outer is None else outer))
    return dims


def _edges(dim: Dim) -> list[int]:
    """The sizes of the parts that a dimension is the concat of."""
    *_, last = factors_of(dim)
    return [size_of(part) for part in parts_of(last)] if isinstance(last.link, Concat) else []


def blocks(dim: Dim, width: int) -> Dim | None:
    """The dimension of the blocks when ``dim`` is cut into blocks of ``width``.

    Unlike with ``take_tail``, the blocks of different parts of a concat need not be alike
    inside. ``None`` when a block would straddle parts.
    """
    *outer, last = factors_of(dim) or (None,)
    if last is None or not isinstance(last.link, Concat) or last.size % width or last.size == width:
        cut = take_tail(dim, width)
        return cut[0] if cut else None
    inside = [blocks(part, width) if size_of(part) % width == 0 else None for part in parts_of(last)]
    whole = [part for part in inside if part is not None]
    return (*outer, *join(whole)) if len(whole) == len(inside) else None


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Result:
    """Statistics over the last dimensions; scale and shift have the same dimensions."""
    dims, count = call.dims("input"), len(call["normalized_shape"])
    scaled = [value.dims for name in ("weight", "bias") if isinstance(value := call.arguments.get(name), Value)]
    call.notes.add(dims[:-count])
    result = broadcast(dims, *scaled)
    statistics = (*dims[:-count], *((),) * count)
    return result if len(call.shapes) == 1 else [result, *[statistics] * (len(call.shapes) - 1)]


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(call: Call) -> Result:
    """``v * g / |v|``, the norm over all dimensions but one."""
    direction, gain = call.dims("v"), call.dims("g")
    kept = call["dim"] % len(direction)
    call.notes.add((direction[kept],))
    result = broadcast(direction, gain)
    return result if len(call.shapes) == 1 else [result, gain]


@rule("cosine_similarity")
def cosine_similarity(call: Call) -> Result:
    """A contraction of both inputs, after broadcasting."""
    dims = broadcast(*(value.dims for value in call.tensors()))
    call.notes.add(dims)
    return _reduced(call, dims, {call["dim"] % len(dims)})


# -------------------------------------------------------------------------------------------------------------- space


def over_space(call: Call) -> Result:
    """A window or padding over the last dimensions pins those that it moves over; the others stay."""
    match = re.search(r"([123])d", call.name)
    assert match is not None
    space = int(match[1])
    dims = call.tensors()[0].dims
    reason = call.why(f"moved over by the window of {call.name}")
    still = [_stands_still(call, number) for number in range(space)]
    for value in call.tensors():
        for dim, stays in zip(value.dims[-space:], still, strict=True):
            if not stays:
                pin(dim, reason)
    if any(still):
        sizes = zip(dims[-space:], call.shape[-space:], still, strict=True)
        return (*dims[:-space], *(dim if stays else fresh(size, reason) for dim, size, stays in sizes))
    return _outputs(call, dims[:-space], reason)


def _stands_still(call: Call, number: int) -> bool:
    """Whether a pooling window is one point in dimension ``number`` of space, and reads every one of them."""
    if not re.fullmatch(r"(avg|max)_pool[123]d", call.name):
        return False
    kernel, stride, padding = (_of_dimension(call[name], number) for name in ("kernel_size", "stride", "padding"))
    return kernel == 1 and stride in (1, None) and padding == 0


def _of_dimension(value: Any, number: int) -> Any:
    """An option of a window in one dimension: given once for all of them, once each, or not at all."""
    if not isinstance(value, (list, tuple)):
        return value
    return value[number if len(value) > 1 else 0] if value else None


def _outputs(call: Call, passing: Dims, reason: str) -> Result:
    made: list[Dims] = [passing + tuple(fresh(size, reason) for size in shape[len(passing) :]) for shape in call.shapes]
    return made if len(made) > 1 else made[0]


_WINDOWS: Sequence[str] = (
    *("max_pool1d", "max_pool2d", "max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices"),
    *(
        "max_pool3d_with_indices",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "_adaptive_avg_pool2d",
    ),
    *(
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "_adaptive_avg_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
    ),
    *("adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
    *("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact1d"),
    *("_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    *("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d"),
    *("replication_pad3d", "fractional_max_pool2d", "max_unpool2d"),
)
for _name in _WINDOWS:
    RULES[_name] = over_space


@rule("grid_sampler", "grid_sampler_2d")
def grid_sampler(call: Call) -> Result:
    """Channels stay; the grid names places in space."""
    batch, channels, *space = call.dims("input")
    grid = call.dims("grid")
    reason = call.why("sampled by a grid")
    for dim in (*space, *grid[1:]):
        pin(dim, reason)
    unify(batch, grid[0])
    return _outputs(call, (batch, channels), reason)
