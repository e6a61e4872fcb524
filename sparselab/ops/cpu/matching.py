"""Linear sum assignment in integers, warm from the matching that stands.

Shortest augmenting paths with duals (Jonker and Volgenant, Computing 38, 1987; Crouse, IEEE TAES 52, 2016). A search
asks for thousands of these, each nearly solved: most slots keep their channel. So rows start matched along the
diagonal wherever the first duals allow it. Rows left over bid for columns, all at once, for some rounds (an auction,
Bertsekas 1979, in which no bid is above what keeps the duals feasible); the few that still have none grow a path.
Bids cost as much as steps of a path here, but a GPU takes them side by side (``kernels/matching.cu``). Integers make
every machine find the same matching.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.jit import jit

FAR = np.int32(2**30)
_STRIDE = 64
# As in kernels/matching.cu, or a GPU would find other matchings among equally good ones.
_BIDDERS = 512  # rows that bid, at most
_ROWS_A_ROUND = 16  # one round of bids for so many rows of the matrix


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
    key = np.full((size + _STRIDE - 1) // _STRIDE * _STRIDE, FAR, np.int32)
    shut = np.empty(size, np.int32)
    came_from = np.empty(size, np.int32)
    done = np.empty(size, np.int32)
    reached = np.empty(size, np.int32)
    _bid(cost, size, column_of, row_of, u, v, key)
    for i in range(size):
        if column_of[i] < 0:
            _augment(cost, size, i, column_of, row_of, u, v, key, shut, came_from, done, reached)


@jit
def _bid(
    cost: NDArray[np.int32],
    size: int,
    column_of: NDArray[np.int32],
    row_of: NDArray[np.int32],
    u: NDArray[np.int32],
    v: NDArray[np.int32],
    key: NDArray[np.int32],
) -> None:
    """Rows without a column bid for the one that costs them least what the next one would cost more.

    The highest bid of a column wins it, of equal ones the lowest row's; it is taken off the column's dual. Who had it
    bids in the winner's place.
    """
    rows = np.empty(_BIDDERS, np.int32)
    want = np.empty(_BIDDERS, np.int32)
    bid = np.empty(_BIDDERS, np.int32)
    best = np.empty(size, np.int32)
    count = 0
    for i in range(size):
        if column_of[i] < 0 and count < _BIDDERS:
            rows[count] = i
            count += 1
    for _ in range(size // _ROWS_A_ROUND):
        for k in range(count):
            i = rows[k]
            if i < 0:
                continue
            least = FAR
            for j in range(np.uint64(size)):
                key[j] = cost[i, j] - v[j]
                least = min(least, key[j])
            want[k] = _first(key, least)
            key[want[k]] = FAR
            following = FAR
            for j in range(np.uint64(size)):
                following = min(following, key[j])
            u[i] = least
            bid[k] = following - least
            best[want[k]] = -1
        for k in range(count):
            if rows[k] >= 0:
                leader = best[want[k]]
                if leader < 0 or bid[k] > bid[leader] or (bid[k] == bid[leader] and rows[k] < rows[leader]):
                    best[want[k]] = k
        settled = True
        for k in range(count):
            if rows[k] < 0 or best[want[k]] != k:
                continue
            i, j = rows[k], want[k]
            if bid[k] == 0 and row_of[j] >= 0:
                continue
            u[i] += bid[k]
            v[j] -= bid[k]
            rows[k] = row_of[j]
            if row_of[j] >= 0:
                column_of[row_of[j]] = -1
            row_of[j] = i
            column_of[i] = j
            settled = False
        if settled:
            return


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
