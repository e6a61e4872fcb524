"""Rules of what puts numbers into places of another tensor: by masks, and by indices."""

from __future__ import annotations

from sparselab.network.axes import Dim, are_copies, fresh, pin, reslice, size_of, unify
from sparselab.network.dataflow import Call, Dims, Result, Value
from sparselab.network.rules import rule


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(call: Call) -> Result:
    """``x[i, j] = values``: the places keep theirs, and what is put there shares the other dimensions."""
    dims, indices, values = call.dims("self"), _indices(call), call.dims("values")
    reason, places = call.why("written to by an index"), [axis for axis, by in enumerate(indices) if by is not None]
    for axis in places:
        pin(dims[axis], reason)
    for by in call["indices"]:
        for dim in by.dims if by is not None else ():
            pin(dim, reason)
    rest = [dim for axis, dim in enumerate(dims) if axis not in places]
    call.notes.add(rest)  # beside the places written to, not beside those where the values stood
    adjacent = places == list(range(places[0], places[-1] + 1))
    put = max((_places(by) for by in call["indices"] if by is not None), default=1)
    behind = len(dims) - 1 - places[-1] if adjacent else len(rest)
    shape: list[Dim | None] = [*rest[: len(rest) - behind], *[None] * put, *rest[len(rest) - behind :]]
    for position in range(1, len(values) + 1):
        into, own = shape[-position], values[-position]
        if into is None:
            pin(own, reason)
        elif size_of(own) > 1:
            unify(into, own)
    return dims


def _indices(call: Call) -> list[Value | None]:
    """One entry for each dimension that is indexed: a mask stands for as many as it has itself."""
    found: list[Value | None] = []
    for by in call["indices"]:
        found += [by] * (len(by.dims) if by is not None and by.is_mask else 1)
    return found


def _places(by: Value) -> int:
    """How many dimensions an index has in what it chooses."""
    return 1 if by.is_mask else len(by.dims)


@rule("masked_scatter")
def masked_scatter(call: Call) -> Result:
    """What ``mask`` marks is filled from ``source``, number by number in row-major order.

    A mask that is the same for the whole last dimension, expanded or of size 1 there, takes whole
    rows of the source.
    """
    dims, mask, source = call.dims("self"), call.dims("mask"), call.dims("source")
    reason = call.why("filled one after the other by masked_scatter")
    whole_rows = len(mask) == len(dims) and bool(dims) and are_copies(mask[-1])  # of size 1: copies of one, too
    if not whole_rows:
        for dim in (*dims, *mask, *source):
            pin(dim, reason)
        return dims
    width = size_of(dims[-1])
    taken, columns = reslice(source, (max(1, _numbers(source) // width), width), reason)
    unify(dims[-1], columns)
    for dim in (*dims[:-1], *mask[:-1], taken):
        pin(dim, reason)
    call.notes.add(dims[-1:])
    return dims


def _numbers(dims: Dims) -> int:
    total = 1
    for dim in dims:
        total *= size_of(dim)
    return total


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(call: Call) -> Result:
    """Numbers put along one dimension, separately for every index of the others."""
    dims, by = call.dims("self"), call.dims("index")
    source = call.arguments.get("src")
    others = [by, *([source.dims] if isinstance(source, Value) else [])]
    if not dims:
        return dims
    axis, reason = call["dim"] % len(dims), call.why(f"written to by {call.name}")
    for given in (dims, *others):
        pin(given[axis], reason)
    for other in others:
        for position, (dim, own) in enumerate(zip(dims, other, strict=True)):
            if position == axis:
                continue
            if size_of(dim) == size_of(own):
                unify(dim, own)
            else:
                pin(dim, call.why(f"cut by {call.name}"))
                pin(own, call.why(f"cut by {call.name}"))
    call.notes.add((*dims[:axis], *dims[axis + 1 :]))
    return dims


@rule("index_add", "index_copy", "index_reduce", "index_fill")
def index_add(call: Call) -> Result:
    """Slices put along one dimension: it keeps its order, and the slices share the others."""
    dims, source = call.dims("self"), call.arguments.get("source")
    if not dims:
        return dims
    axis, reason = call["dim"] % len(dims), call.why(f"written to by {call.name}")
    for dim in (dims[axis], *call.dims("index")):
        pin(dim, reason)
    if isinstance(source, Value) and source.dims:
        pin(source.dims[axis], reason)
        for position, (dim, own) in enumerate(zip(dims, source.dims, strict=True)):
            if position != axis:
                unify(dim, own)
    call.notes.add((*dims[:axis], *dims[axis + 1 :]))
    return dims


@rule("histc", "bincount")
def counted(call: Call) -> Result:
    """How often each number occurs: the order of what is counted does not matter."""
    return tuple(fresh(size, call.why(f"counted by {call.name}")) for size in call.shape)
