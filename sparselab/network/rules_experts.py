"""Rules of matrix products of packed experts, over tokens that are sorted by expert."""

from __future__ import annotations

from sparselab.network.axes import pin, unify
from sparselab.network.dataflow import Call, Result, Value
from sparselab.network.rules import rule
from sparselab.network.rules_linear import contract


@rule("_grouped_mm", "grouped_mm", "grouped_mm_fallback")
def grouped_mm(call: Call) -> Result:
    """``(tokens, inner) @ (experts, inner, columns)``: each token by the matrix of its expert.

    Tokens and experts keep their places: the ends of the groups (``offs``) say whose token is whose.
    """
    left, right = call.tensors()[:2]
    ends = call.arguments.get("offs")
    if ends is None:
        result = contract(call, left.dims, right.dims)
    elif isinstance(ends, Value) and len(left.dims) == 2 and len(right.dims) == 3:
        tokens, (experts, inner, columns) = left.dims[0], right.dims
        unify(left.dims[1], inner)
        unify(experts, ends.dims[0])
        for dim in (tokens, experts):
            pin(dim, call.why(f"grouped by {call.name}"))
        call.notes.group(tokens, experts, ends)
        call.notes.add((tokens, inner, columns))
        result = (tokens, columns)
    else:
        raise ValueError("groups along what is summed over")
    if isinstance(call.arguments.get("bias"), Value):
        raise ValueError("a bias")
    return result
