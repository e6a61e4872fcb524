"""Linear sum assignment in integers, warm from the matching that stands.

Shortest augmenting paths with duals (Jonker and Volgenant, Computing 38, 1987; Crouse, IEEE TAES 52, 2016). A search
asks for thousands of these, each nearly solved: most slots keep their channel. So rows start matched along the
diagonal wherever the first duals allow it, and only the few rows left over grow a path. Integers make every machine find
the same matching.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.jit import jit

FAR = np.int32(2**30)
_STRIDE = 64


@jit
def match(cost: NDArray[np.int32], size: int, column_of: NDArray[np.int32]) -> None:
    """The matching of least total ``cost[i, column_of[i]]`` over the leading ``size`` x ``size`` block.

    ``cost`` is int32, absolute values below 2^28; ``column_of`` int32 ``(size,)`` is written.
    """
    u = np.empty(size, np.int32)
    v = np.empty(size, np.int32)
    row_of = np.full(size, -1, np.int32)
    for j in range(size):
        v[j] = FAR
    for i in range(size):
        for j in range(np.uint64(size)):
            v[j] = min(v[j], cost[i, j])
    for i in range(size):
        least = FAR
        for j in range(np.uint64(size)):
            least = min(least, cost[i, j] - v[j])
        u[i] = least
        column_of[i] = -1
        if cost[i, i] - v[i] == least:
            column_of[i] = i
            row_of[i] = i
    for i in range(size):  # rows whose diagonal is not tight take another tight column that is free
        if column_of[i] < 0:
            for j in range(size):
                if row_of[j] < 0 and cost[i, j] - v[j] == u[i]:
                    column_of[i] = j
                    row_of[j] = i
                    break
    key = np.full((size + _STRIDE - 1) // _STRIDE * _STRIDE, FAR, np.int32)
    shut = np.empty(size, np.int32)
    came_from = np.empty(size, np.int32)
    done = np.empty(size, np.int32)
    reached = np.empty(size, np.int32)
    for i in range(size):
        if column_of[i] < 0:
            _augment(cost, size, i, column_of, row_of, u, v, key, shut, came_from, done, reached)


@jit
def _first(key: NDArray[np.int32], value: np.int32) -> int:
    """Where ``value``, which is there, first is; strides are looked through in vector registers."""
    start = 0
    while True:
        found = False
        for j in range(np.uint64(start), np.uint64(start + _STRIDE)):
            found |= key[j] == value
        if found:
            break
        start += _STRIDE
    while key[start] != value:
        start += 1
    return start


@jit
def _augment(
    cost: NDArray[np.int32],
    size: int,
    start: int,
    column_of: NDArray[np.int32],
    row_of: NDArray[np.int32],
    u: NDArray[np.int32],
    v: NDArray[np.int32],
    key: NDArray[np.int32],
    shut: NDArray[np.int32],
    came_from: NDArray[np.int32],
    done: NDArray[np.int32],
    reached: NDArray[np.int32],
) -> None:
    """Match row ``start`` along the shortest alternating path to a free column, and move the duals."""
    for j in range(np.uint64(size)):
        key[j] = FAR
        shut[j] = 0
    row, near, count = start, np.int32(0), 0
    while True:
        offset = near - u[row]
        least = FAR
        here = np.int32(row)
        for j in range(np.uint64(size)):
            length = cost[row, j] - v[j] + offset + shut[j]
            shorter = length < key[j]
            came_from[j] = here if shorter else came_from[j]
            kept = length if shorter else key[j]
            key[j] = kept
            least = min(least, kept)
        column = _first(key, least)
        near = least
        done[count] = column
        reached[count] = near
        count += 1
        if row_of[column] < 0:
            break
        key[column] = FAR  # shut for good: no later length is shorter
        shut[column] = FAR
        row = row_of[column]
    u[start] += near
    for k in range(count - 1):
        u[row_of[done[k]]] += near - reached[k]
        v[done[k]] -= near - reached[k]
    while True:
        previous = came_from[column]
        row_of[column] = previous
        following = column_of[previous]
        column_of[previous] = column
        column = following
        if previous == start:
            return
