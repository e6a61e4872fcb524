"""What each ATen operator says about dimensions: the registry, and rules of what passes through.

A rule takes a ``Call`` and returns the dimensions of the output, made from those of the inputs. It
calls ``unify`` where two dimensions are the same, ``pin`` where an order matters to the operator,
and ``call.notes.add`` for a value that exists only inside the operator, such as the sums of a
softmax: the noted values decide what may move independently of what. An operator without a rule is
taken apart by PyTorch's decompositions; if that fails, everything that it touches is pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sparselab.network.axes import (
    Dim,
    choose,
    copies,
    fresh,
    join,
    piece,
    pin,
    pinned_like,
    reasons_of,
    reslice,
    size_of,
    take_tail,
    unify,
)
from sparselab.network.dataflow import Call, Dims, Result, Rule, Value

RULES: dict[str, Rule] = {}
"""The rule of each operator, under its name without namespace and overload."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operators of these names (and for their in-place twins)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


# ----------------------------------------------------------------------------------------------------------- pointwise


def broadcast(*operands: Dims) -> Dims:
    """The dimensions of an elementwise result: aligned from the last; a size of 1 says nothing."""
    result: list[Dim] = [()] * max(map(len, operands), default=0)
    for dims in operands:
        for position in range(1, len(dims) + 1):
            if size_of(result[-position]) == 1:
                result[-position] = dims[-position]
            elif size_of(dims[-position]) > 1:
                unify(result[-position], dims[-position])
    return tuple(result)


@rule(
    *("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "clone", "contiguous", "_to_copy"),
    *("lift_fresh_copy", "lift_fresh", "detach", "alias", "copy", "masked_fill", "where", "rsub", "relu6"),
    *("hardtanh", "softplus", "_assert_tensor_metadata", "clamp", "native_dropout", "nan_to_num", "rrelu", "addcmul"),
    *("fill", "zero", "lerp", "isnan", "isinf", "isfinite", "logical_not", "bitwise_not", "float_power", "threshold"),
    "bernoulli",
)
def pointwise(call: Call) -> Result:
    """Elementwise with broadcasting: dimensions that meet are one. What is drawn for each number alone is, too."""
    dims = broadcast(*(value.dims for value in call.tensors()))
    return dims if len(call.shapes) < 2 else [dims] * len(call.shapes)


@rule("to", "type_as")
def cast(call: Call) -> Result:
    """The same numbers in another dtype, which another tensor may name: its dimensions say nothing."""
    return call.tensors()[0].dims


@rule(
    *("zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like", "scalar_tensor"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)
def uniform(call: Call) -> Result:
    """A tensor of one value: its dimensions are new and free."""
    return tuple(fresh(size) for size in call.shape)


@rule("access_subclass_inner_tensor")
def part_of_a_quantised_weight(call: Call) -> Result:
    """The integers, or their scales, of a weight that is made of others: it is read and never moved."""
    reasons = dict.fromkeys(reason for value in call.tensors() for dim in value.dims for reason in reasons_of(dim))
    reason = "; ".join(reasons) or "part of a quantised weight"
    return tuple(fresh(size, reason) for size in call.shape)


@rule("arange", "linspace", "logspace", "eye", "range", "rand", "randn", "randint", "randperm", "tril_indices")
def distinct(call: Call) -> Result:
    """A tensor made from positions: every index has its own value."""
    reason = call.why(f"meets the constant of {call.name}, which differs from index to index,")
    return tuple(fresh(size, reason) for size in call.shape)


@rule("prelu", "_prelu_kernel")
def prelu(call: Call) -> Result:
    """One slope for all, or one for each channel (dimension 1)."""
    dims, (slope,) = call.dims("self"), call.dims("weight")[-1:] or ((),)
    if call.name == "_prelu_kernel":
        return broadcast(dims, call.dims("weight"))
    if size_of(slope) > 1:
        unify(dims[1] if len(dims) > 1 else dims[0], slope)
    return dims


# --------------------------------------------------------------------------------------------------------------- views


@rule(
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "_reshape_alias"),
    *("unsqueeze", "squeeze", "atleast_1d", "atleast_2d", "ravel"),
)
def view(call: Call) -> Result:
    """The same numbers in row-major order, cut into other dimensions."""
    reason = call.why(f"cut across by {call.name} to shape {call.shape}")
    return reslice(call.tensors()[0].dims, call.shape, reason)


@rule("view_as_real")
def view_as_real(call: Call) -> Result:
    """A new last dimension: the real and the imaginary part."""
    return (*call.dims("self"), fresh(2, call.why("the real and the imaginary part")))


@rule("view_as_complex")
def view_as_complex(call: Call) -> Result:
    """Without the last dimension, that of real and imaginary parts."""
    *dims, parts = call.dims("self")
    pin(parts, call.why("the real and the imaginary part"))
    return tuple(dims)


@rule("permute")
def permute(call: Call) -> Result:
    """Dimensions in another order."""
    dims = call.dims("self")
    return tuple(dims[axis] for axis in call["dims"])


@rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT")
def transpose(call: Call) -> Result:
    """Two dimensions exchanged."""
    dims = list(call.dims("self"))
    if call.name == "numpy_T":
        return tuple(reversed(dims))
    first, second = (
        call.arguments.get(key) for key in (("dim0", "dim1") if "dim0" in call.arguments else ("axis0", "axis1"))
    )
    if first is None or second is None:
        first, second = (-2, -1) if len(dims) > 1 else (0, 0)
    dims[first], dims[second] = dims[second], dims[first]
    return tuple(dims)


@rule("movedim", "moveaxis")
def movedim(call: Call) -> Result:
    """Dimensions moved from ``source`` to ``destination``; the others stay in order."""
    dims = call.dims("self")
    source, destination = (
        [axis % len(dims) for axis in _as_axes(call[name], ())] for name in ("source", "destination")
    )
    order = [axis for axis in range(len(dims)) if axis not in source]
    for target, axis in sorted(zip(destination, source, strict=True)):
        order.insert(target, axis)
    return tuple(dims[axis] for axis in order)


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Result:
    """Copies along a dimension of size 1: a new dimension whose indices are all alike."""
    return _expanded(call.dims("self"), call.shape)


@rule("broadcast_tensors")
def broadcast_tensors(call: Call) -> Result:
    """Every tensor expanded to the common shape."""
    return [_expanded(value.dims, call.shape) for value in call["tensors"]]


def _expanded(dims: Dims, shape: Sequence[int]) -> Dims:
    padded = ((),) * (len(shape) - len(dims)) + dims
    return tuple(dim if size_of(dim) == size else copies(size) for dim, size in zip(padded, shape, strict=True))


@rule("repeat", "tile")
def repeat(call: Call) -> Result:
    """Copies one after the other: the outer factor of a product, whose indices are all alike."""
    dims = ((),) * (len(call.shape) - len(call.dims("self"))) + call.dims("self")
    return tuple(fresh(size // max(1, size_of(dim))) + dim for dim, size in zip(dims, call.shape, strict=True))


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Result:
    """Copies side by side: the inner factor of a product, whose indices are all alike."""
    if not isinstance(call.arguments.get("repeats"), int):
        raise ValueError("repeats differ from index to index")
    dims = call.dims("self")
    if call["dim"] is None:
        dims, axis = (tuple(leaf for dim in dims for leaf in dim),), 0
    else:
        axis = call["dim"] % len(dims)
    return (*dims[:axis], dims[axis] + fresh(call["repeats"]), *dims[axis + 1 :])


# ------------------------------------------------------------------------------------------------- joining and cutting


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Result:
    """One dimension is the concat of those of the inputs; the others are unified."""
    values = [value.dims for value in call["tensors"] if all(map(size_of, value.dims))]
    axis = call.arguments.get("dim", call.arguments.get("axis", 0)) % len(values[0])
    others = broadcast(*((*dims[:axis], *dims[axis + 1 :]) for dims in values))
    return (*others[:axis], join([dims[axis] for dims in values]), *others[axis:])


@rule("stack")
def stack(call: Call) -> Result:
    """A new dimension, each index of which is another tensor."""
    axis = call["dim"] % len(call.shape)
    dims = broadcast(*(value.dims for value in call["tensors"]))
    return (*dims[:axis], fresh(call.shape[axis], call.why("stacked from different tensors")), *dims[axis:])


@rule(
    *("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy"),
    *("hsplit", "vsplit", "split_with_sizes_copy", "unsafe_split_with_sizes"),
)
def split_apart(call: Call) -> Result:
    """Pieces of one dimension."""
    dims = call.tensors()[0].dims
    axis = call.arguments.get("dim", 0) % len(dims)
    reason, start, made = call.why(f"cut across by {call.name}"), 0, []
    for shape in call.shapes:
        made.append((*dims[:axis], piece(dims[axis], start, start + shape[axis], reason), *dims[axis + 1 :]))
        start += shape[axis]
    return made


@rule("unbind")
def unbind(call: Call) -> Result:
    """A separate tensor for every index."""
    dims = call.dims("self")
    axis = call["dim"] % len(dims)
    pin(dims[axis], call.why("taken apart index by index by unbind"))
    return [(*dims[:axis], *dims[axis + 1 :]) for _ in call.shapes]


@rule("select")
def select(call: Call) -> Result:
    """One index of a dimension, which stays where it is."""
    dims = call.dims("self")
    axis = call["dim"] % len(dims)
    index = call["index"] % size_of(dims[axis])
    piece(dims[axis], index, index + 1, call.why(f"index {index} is selected"))
    return (*dims[:axis], *dims[axis + 1 :])


@rule("slice", "narrow")
def slice_(call: Call) -> Result:
    """A range of a dimension; with a step, one place in every block of that many."""
    dims = call.dims("self")
    axis = call["dim"] % len(dims)
    dim, size = dims[axis], size_of(dims[axis])
    start, step = call["start"] or 0, call.arguments.get("step") or 1
    start = max(0, start + size) if start < 0 else min(start, size)
    if step == 1:
        cut = piece(dim, start, start + call.shape[axis], call.why(f"cut across by {call.name}"))
    elif start < step and size % step == 0 and call.shape[axis] == size // step and (pair := take_tail(dim, step)):
        cut = pair[0]
        pin(pair[1], call.why(f"every {step}th index is selected"))
    else:
        pin(dim, call.why(f"every {step}th index is selected"))
        cut = fresh(call.shape[axis], call.why(f"every {step}th index of another dimension"))
    return (*dims[:axis], cut, *dims[axis + 1 :])


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Result:
    """A constant adds indices that are all alike, as a concat does; any other padding pins."""
    dims, widths = list(call.dims("self")), list(call["pad"])
    constant = call.arguments.get("mode", "constant") == "constant"
    for position in range(len(widths) // 2):
        axis, (before, after) = len(dims) - 1 - position, widths[2 * position : 2 * position + 2]
        if before == after == 0:
            continue
        if not constant or before < 0 or after < 0:
            pin(dims[axis], call.why(f"padded ({call.arguments.get('mode', 'cropped')})"))
            dims[axis] = fresh(call.shape[axis], call.why("padded"))
        else:
            dims[axis] = join([fresh(before), dims[axis], fresh(after)])
    return tuple(dims)


# ------------------------------------------------------------------------------------------------------------ indexing


@rule("index", "_unsafe_index")
def index(call: Call) -> Result:
    """``x[:, i]``: a relabelling or a choice if ``i`` is a constant, else a look-up, which pins."""
    dims, indices = call.dims("self"), list(call["indices"])
    places = [axis for axis, value in enumerate(indices) if value is not None]
    if len(places) == 1 and (known := _known(indices[places[0]])) is not None and known.ndim == 1:
        axis = places[0]
        pin(indices[axis].dims[0], call.why("an index"))
        known = np.where(known < 0, known + size_of(dims[axis]), known)
        chosen = choose(dims[axis], known, call.why("indexed by a constant"))
        return (*dims[:axis], chosen, *dims[axis + 1 :])
    for axis in places:
        pin(dims[axis], call.why("looked up in by index"))
    if any(_is_mask(call, axis) for axis in places):
        raise ValueError("indexed by a mask")
    looked_up = broadcast(*(indices[axis].dims for axis in places))
    rest = [dim for axis, dim in enumerate(dims) if axis not in places]
    call.notes.add(rest)  # beside the places looked up, not beside those where they are put
    adjacent = places == list(range(places[0], places[-1] + 1))
    at = places[0] if adjacent else 0
    return (*rest[:at], *looked_up, *rest[at:])


def _is_mask(call: Call, axis: int) -> bool:
    known = call["indices"][axis].constant
    return (
        known is not None
        and known.dtype.is_floating_point is False
        and str(known.dtype) in ("torch.bool", "torch.uint8")
    )


def _known(value: Value) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    constant = value.constant
    if constant is None or str(constant.dtype) not in ("torch.int64", "torch.int32"):
        return None
    return constant.detach().cpu().numpy().astype(np.int64)


@rule("index_select")
def index_select(call: Call) -> Result:
    """The rows of one dimension that an index names."""
    dims, by = call.dims("self"), call["index"]
    axis = call["dim"] % len(dims)
    if (known := _known(by)) is not None:
        pin(by.dims[0], call.why("an index"))
        made = choose(dims[axis], known, call.why("indexed by a constant"))
    else:
        pin(dims[axis], call.why("looked up in by index"))
        call.notes.add((*dims[:axis], *dims[axis + 1 :]))
        made = by.dims[0]
    return (*dims[:axis], made, *dims[axis + 1 :])


@rule("embedding")
def embedding(call: Call) -> Result:
    """Rows of a table: the rows keep their places, and the columns are those of the output."""
    table = call.dims("weight")
    pin(table[0], call.why("rows of a table, looked up by index"))
    call.notes.add(table[1:])
    return (*call.dims("indices"), table[1])


@rule("gather", "take_along_dim")
def gather(call: Call) -> Result:
    """A look-up along one dimension, separately for every index of the others."""
    dims, by = call.dims("self"), call.dims("index" if "index" in call.arguments else "indices")
    axis = call["dim"] % len(dims)
    pin(dims[axis], call.why(f"looked up in by {call.name}"))
    call.notes.add((*dims[:axis], *dims[axis + 1 :]))
    made = []
    for position, (dim, chosen) in enumerate(zip(dims, by, strict=True)):
        if position != axis and size_of(dim) == size_of(chosen):
            unify(dim, chosen)
        elif position != axis:
            pin(dim, call.why(f"cut by {call.name}"))
            pin(chosen, call.why(f"cut by {call.name}"))
        made.append(chosen)
    return tuple(made)


# ------------------------------------------------------------------------------------------------- where order matters


@rule(
    *("flip", "roll", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "argsort", "topk", "kthvalue"),
    *("argmax", "argmin", "mode", "median", "fliplr", "flipud", "rot90", "fft_fft", "fft_ifft", "fft_rfft", "diff"),
    *("fft_fft2", "fft_rfft2", "fft_irfft", "fft_irfft2", "unfold", "logit_normalize", "trapezoid"),
)
def ordered(call: Call) -> Result:
    """The order along some dimensions matters: those are pinned, the others stay as they are."""
    dims = call.dims("self")
    named = next((call.arguments[key] for key in ("dim", "dims", "dimension") if key in call.arguments), None)
    if not dims:
        return [() for _ in call.shapes] if len(call.shapes) > 1 else ()
    default = (-1,) if call.name.startswith("fft") else tuple(range(len(dims)))
    axes = {axis % len(dims) for axis in _as_axes(named, default)}
    reason = call.why(f"order matters to {call.name}")
    for axis in axes:
        pin(dims[axis], reason)
    return _passing(call, dims, axes, reason)


def _passing(call: Call, dims: Dims, axes: set[int], reason: str) -> Result:
    """Outputs with the input's other dimensions, whether the pinned ones stay, shrink or vanish."""
    results: list[Dims] = []
    for shape in call.shapes:
        if len(shape) >= len(dims):
            kept = tuple(
                fresh(size, reason) if axis in axes else dims[axis] for axis, size in enumerate(shape[: len(dims)])
            )
            results.append(kept + tuple(fresh(size, reason) for size in shape[len(dims) :]))
        else:
            results.append(tuple(dim for axis, dim in enumerate(dims) if axis not in axes))
    return results if len(results) > 1 else results[0]


def _as_axes(named: object, default: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(named, int):
        return (named,)
    if isinstance(named, (list, tuple)) and named:
        return tuple(int(axis) for axis in named)
    return default


@rule("tril", "triu")
def triangle(call: Call) -> Result:
    """Zeros on one side of the diagonal: both dimensions keep their order."""
    *rest, rows, columns = call.dims("self")
    reason = call.why(f"order matters to {call.name}")
    return (*rest, pinned_like(rows, reason), pinned_like(columns, reason))
