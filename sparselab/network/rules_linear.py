"""Rules of what multiplies and sums: matrix products, convolutions, attention."""

from __future__ import annotations

from typing import Any

from sparselab.network.axes import Dim, fresh, piece, pin, pinned_like, reslice, size_of, unify
from sparselab.network.dataflow import Call, Dims, Result, Value
from sparselab.network.rules import broadcast, rule


def contract(call: Call, left: Dims, right: Dims) -> Dims:
    """``(..., rows, inner) @ (..., inner, columns)``: the inner dimensions are the same one."""
    batch, rows, columns = broadcast(left[:-2], right[:-2]), left[-2:-1], right[-1:] if len(right) > 1 else ()
    inner = right[-2] if len(right) > 1 else right[-1]
    unify(left[-1], inner)
    call.notes.add((*batch, *rows, *columns, inner))
    return (*batch, *rows, *columns)


@rule("matmul", "mm", "_int_mm", "bmm", "mv", "dot", "inner", "vdot", "linalg_matmul")
def matmul(call: Call) -> Result:
    """Matrix products, batched or not."""
    left, right = (value.dims for value in call.tensors()[:2])
    return contract(call, left, right)


@rule("addmm", "baddbmm", "addmv")
def addmm(call: Call) -> Result:
    """A matrix product added to something."""
    added, left, right = (value.dims for value in call.tensors()[:3])
    return broadcast(contract(call, left, right), added)


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def cdist(call: Call) -> Result:
    """Distances between all rows of both inputs; dimensions as in a matrix product."""
    left, right = (value.dims for value in call.tensors())
    return contract(call, left, (*right[:-2], right[-1], right[-2]))


@rule("linear")
def linear(call: Call) -> Result:
    """``input @ weight.T + bias``."""
    weight = call.dims("weight")
    out = contract(call, call.dims("input"), tuple(reversed(weight)))
    return broadcast(out, call.dims("bias")) if call["bias"] is not None else out


@rule("bilinear")
def bilinear(call: Call) -> Result:
    """``input1 @ weight[k] @ input2`` for every output ``k``."""
    first, second, (out, left, right) = call.dims("input1"), call.dims("input2"), call.dims("weight")
    unify(first[-1], left)
    unify(second[-1], right)
    if isinstance(bias := call["bias"], Value):
        unify(out, bias.dims[0])
    batch = broadcast(first[:-1], second[:-1])
    call.notes.add((*batch, out, left, right))
    return (*batch, out)


@rule("einsum")
def einsum(call: Call) -> Result:
    """Equal letters are one dimension; letters not in the output are summed over."""
    inputs, arrow, output = call["equation"].replace(" ", "").partition("->")
    named: dict[str, Dim] = {}
    for letters, value in zip(inputs.split(","), call["tensors"], strict=True):
        for letter, dim in zip(_spelled(letters, len(value.dims)), value.dims, strict=True):
            if size_of(named.get(letter, ())) == 1:
                named[letter] = dim
            elif size_of(dim) > 1:
                unify(named[letter], dim)
    call.notes.add(named.values())
    if not arrow:
        once = {letter for letter in named if inputs.count(letter) == 1 and letter.isalpha()}
        output = ("..." if "..." in inputs else "") + "".join(sorted(once))
    return tuple(named[letter] for letter in _spelled(output, len(call.shape)))


def _spelled(letters: str, count: int) -> list[str]:
    """One name for each dimension; those of ``...`` are numbered from the last."""
    before, dots, after = letters.partition("...")
    missing = count - len(before) - len(after)
    return [*before, *(str(n) for n in range(missing, 0, -1) if dots), *after]


# -------------------------------------------------------------------------------------------------------- convolution


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def convolution(call: Call) -> Result:
    """Channels are contracted within each group; the window pins space where it is wider than a point."""
    weight, groups = call.dims("weight"), int(call["groups"])
    transposed = "transpose" in call.name or bool(call.arguments.get("transposed"))
    *batch, channels = call.dims("input")[: -(len(weight) - 2)]
    space = call.dims("input")[-(len(weight) - 2) :]
    outer, within = _groups(call, channels, groups)
    if transposed:
        outer_again, within_again = _groups(call, weight[0], groups)
        produced = weight[1]
    else:
        outer_again, produced = _groups(call, weight[0], groups)
        within_again = weight[1]
    unify(outer, outer_again)
    unify(within, within_again)
    out = outer + produced
    if call["bias"] is not None:
        unify(out, call.dims("bias")[0])
    kernel, reason = weight[2:], call.why(f"moved over by the window of {call.name}")
    passing = [_single_point(call, kernel, number) for number in range(len(kernel))]
    for number, passes in enumerate(passing):
        if not passes:
            pin(kernel[number], reason)
            pin(space[number], reason)
    sizes = call.shape[-len(space) :]
    space_out = [
        dim if passes else fresh(size, reason) for dim, passes, size in zip(space, passing, sizes, strict=True)
    ]
    passed = [dim for dim, passes in zip(space, passing, strict=True) if passes]
    call.notes.add((*batch, out, within, *kernel, *passed))  # without the space that is summed over
    return (*batch, out, *space_out)


def _groups(call: Call, dim: Dim, groups: int) -> tuple[Dim, Dim]:
    shape = (groups, size_of(dim) // groups)
    outer, within = reslice((dim,), shape, call.why(f"cut across by the {groups} groups of {call.name}"))
    return outer, within


def _single_point(call: Call, kernel: Dims, number: int) -> bool:
    """Whether the window stands still in one dimension of space: each output there has one input."""

    def equals(value: Any, to: int) -> bool:
        if isinstance(value, (list, tuple)):
            return bool(value[number if len(value) > 1 else 0] == to)
        return value in (to, "same", "valid")

    return (
        size_of(kernel[number]) == 1
        and equals(call["stride"], 1)
        and equals(call["padding"], 0)
        and equals(call.arguments.get("output_padding", 0), 0)
    )


# ---------------------------------------------------------------------------------------------------------- attention


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Result:
    """``softmax(q @ k.T + mask) @ v``: q and k share their width; the output has that of v."""
    query, key, value = (call.dims(name) for name in ("query", "key", "value"))
    if call.arguments.get("enable_gqa") and len(query) > 2:
        key, value = (_repeated_heads(call, query, dims) for dims in (key, value))
    batch = broadcast(query[:-2], key[:-2], value[:-2])
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    scores: Dims = (*batch, query[-2], key[-2])
    if isinstance(mask := call["attn_mask"], Value):
        scores = broadcast(scores, mask.dims)
    if call["is_causal"]:
        for dim in scores[-2:]:
            pin(dim, call.why("positions of causal attention"))
    call.notes.add((*scores, query[-1]))
    call.notes.add((*scores, value[-1]))
    call.notes.add(scores)
    call.notes.add(scores[:-1])  # the sums of the softmax
    return (*scores[:-1], value[-1])


def _repeated_heads(call: Call, query: Dims, dims: Dims) -> Dims:
    """Keys or values whose every head serves several heads of the query."""
    repeats = size_of(query[-3]) // size_of(dims[-3])
    return (*dims[:-3], dims[-3] + fresh(repeats), *dims[-2:])


# ----------------------------------------------------------------------------------------- operators made of the others


@rule("glu")
def glu(call: Call) -> Result:
    """The first half times the sigmoid of the second: the halves are the same dimension."""
    dims = call.dims("self")
    axis = call["dim"] % len(dims)
    size, reason = call.shape[axis], call.why("cut across by glu")
    first, second = piece(dims[axis], 0, size, reason), piece(dims[axis], size, 2 * size, reason)
    unify(first, second)
    return (*dims[:axis], first, *dims[axis + 1 :])


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Result:
    """``(channels, r, r)`` become channels and space."""
    r = int(call["upscale_factor"])
    *batch, channels, height, width = call.dims("self")
    reason = call.why("cut across by pixel_shuffle")
    kept, down, right = reslice((channels,), (size_of(channels) // r**2, r, r), reason)
    return (*batch, kept, height + down, width + right)


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Result:
    """Space becomes ``(channels, r, r)``."""
    r = int(call["downscale_factor"])
    *batch, channels, height, width = call.dims("self")
    reason = call.why("cut across by pixel_unshuffle")
    high, down = reslice((height,), (size_of(height) // r, r), reason)
    wide, right = reslice((width,), (size_of(width) // r, r), reason)
    return (*batch, channels + down + right, high, wide)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Result:
    """``(groups, width)`` becomes ``(width, groups)``."""
    batch, channels, *space = call.dims("self")
    groups = int(call["groups"])
    outer, within = reslice(
        (channels,), (groups, size_of(channels) // groups), call.why("cut across by channel_shuffle")
    )
    return (batch, within + outer, *space)


@rule("im2col")
def im2col(call: Call) -> Result:
    """Every window as a column: ``(channels, window)`` and positions."""
    *batch, channels, height, width = call.dims("self")
    reason = call.why("moved over by the window of unfold")
    for dim in (height, width):
        pinned_like(dim, reason)
    window = call.shape[-2] // size_of(channels)
    return (*batch, channels + fresh(window, reason), fresh(call.shape[-1], reason))


@rule("col2im")
def col2im(call: Call) -> Result:
    """The reverse of ``im2col``: columns are put back where the windows were, and added."""
    *batch, columns, positions = call.dims("self")
    reason = call.why("moved over by the window of fold")
    pin(positions, reason)
    channels, window = reslice((columns,), (call.shape[-3], size_of(columns) // call.shape[-3]), reason)
    pin(window, reason)
    call.notes.add((*batch, channels))
    return (*batch, channels, *(fresh(size, reason) for size in call.shape[-2:]))
