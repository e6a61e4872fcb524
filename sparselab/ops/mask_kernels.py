"""Mask primitives on the CPU: one pass over memory, compiled per group size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.jit import jit
from sparselab.ops.threads import map_blocks, row_blocks

Floats: TypeAlias = NDArray[np.floating[Any]]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]
Kernel: TypeAlias = Callable[..., bool]

BLOCK_ELEMENTS = 1 << 20
"""Elements that a thread takes at a time: enough that handing them out costs nothing.

Measured: 2^16 takes twice as long.
"""

UNROLLED_GROUP = 16
"""Largest M for which the compiler sees the group size as a constant (and unrolls and vectorises over groups)."""


@cache
def _top_n_kernel(m: int) -> Kernel:
    """A kernel ``(scores, n, mask) -> all finite`` for groups of the constant ``m``."""

    @jit
    def top_n(scores: Floats, n: int, mask: Bools) -> bool:
        finite = True
        for group in range(np.uint64(scores.size // m)):
            start = group * np.uint64(m)
            for i in range(m):
                mine = abs(scores[start + np.uint64(i)])
                finite &= mine < np.inf
                rank = 0
                for j in range(m):
                    other = abs(scores[start + np.uint64(j)])
                    rank += (other >= mine) if j < i else (other > mine)
                mask[start + np.uint64(i)] = rank < n
        return finite

    return top_n


@jit
def _top_n_by_bisection(bits: Ints, infinity: Any, without_sign: Any, n: int, m: int, mask: Bools) -> bool:
    """The same for any ``m``, of the bits of the scores: as whole numbers, those of positive floats have their order.

    The n-th largest of a group is found by halving the numbers it may be, counting in vector
    registers how many reach the middle: some ten rounds, however large the group.
    """
    number = bits.dtype.type
    size = np.empty(m, bits.dtype)
    for start in range(0, bits.size, m):
        low, high = infinity, number(0)
        for i in range(np.uint64(m)):
            size[i] = bits[start + i] & without_sign
            low = min(low, size[i])
            high = max(high, size[i])
        if high >= infinity:
            return False
        if n == 1:
            low = high
        while low < high:  # n or more reach low, fewer than n are above high
            middle = number(low + ((high - low + 1) >> 1))
            reach = 0
            for i in range(np.uint64(m)):
                reach += size[i] >= middle
            if reach >= n:
                low = middle
            else:
                high = number(middle - 1)
            if reach == n:
                break
        room = n
        for i in range(np.uint64(m)):
            room -= size[i] > low
        for i in range(np.uint64(m)):
            tie = size[i] == low
            mask[start + i] = size[i] > low or (tie and room > 0)
            room -= tie
    return True


def top_n_of_m(scores: Floats, n: int, m: int) -> tuple[Bools, bool]:
    """Keep the ``n`` largest ``|scores|`` of every ``m`` consecutive columns; ties go to the lower index.

    ``scores`` is ``(rows, channels)``, C-contiguous float32 or float64, ``channels % m == 0``. Returns the mask and
    whether every score was finite (the mask means nothing where they were not). One read of the scores, one write of
    the mask.
    """
    mask = np.empty(scores.shape, np.bool_)
    flat_scores, flat_mask = scores.reshape(-1), mask.reshape(-1)
    number = np.int32 if scores.dtype == np.float32 else np.int64
    infinity, without_sign = scores.dtype.type(np.inf).view(number), number(np.iinfo(number).max)
    groups_a_block = max(1, BLOCK_ELEMENTS // m)

    def run(block: slice) -> bool:
        part = slice(block.start * m, block.stop * m)
        if m <= UNROLLED_GROUP:
            return _top_n_kernel(m)(flat_scores[part], n, flat_mask[part])
        return _top_n_by_bisection(flat_scores[part].view(number), infinity, without_sign, n, m, flat_mask[part])

    finite = map_blocks(run, row_blocks(flat_scores.size // m, groups_a_block))
    return mask, all(finite)


@cache
def _greedy_kernel(m: int) -> Kernel:
    """A kernel ``(scores, n, mask) -> all finite`` over blocks of ``m`` rows and ``m`` columns."""

    @jit
    def rank(value: Floats, largest: Any, starts: Ints, ranked: Floats, place: Ints) -> None:
        # Dealt out into as many buckets as there are entries, they are nearly sorted; an insertion sort does the rest.
        starts[:] = 0
        scale = min(1e300, m * m / np.float64(largest))  # finite for scores of zero too
        for entry in range(m * m):
            starts[1 + min(m * m - 1, int((largest - value[entry]) * scale))] += 1
        for bucket in range(m * m):
            starts[bucket + 1] += starts[bucket]
        for entry in range(m * m):
            bucket = min(m * m - 1, int((largest - value[entry]) * scale))
            ranked[starts[bucket]] = value[entry]
            place[starts[bucket]] = entry
            starts[bucket] += 1
        for start in range(1, m * m):
            score, entry = ranked[start], place[start]
            slot = start
            while slot > 0 and ranked[slot - 1] < score:
                ranked[slot] = ranked[slot - 1]
                place[slot] = place[slot - 1]
                slot -= 1
            ranked[slot] = score
            place[slot] = entry

    @jit
    def greedy(scores: Floats, n: int, mask: Bools) -> bool:
        value = np.empty(m * m, scores.dtype)
        ranked = np.empty(m * m, scores.dtype)
        place = np.empty(m * m, np.int64)
        starts = np.empty(m * m + 1, np.int64)
        rows_left = np.empty(m, np.int64)
        columns_left = np.empty(m, np.int64)
        for top in range(0, scores.shape[0], m):
            for left in range(0, scores.shape[1], m):
                largest = scores.dtype.type(0)
                for row in range(m):
                    for column in range(m):
                        score = abs(scores[top + row, left + column])
                        if not score < np.inf:
                            return False
                        largest = max(largest, score)
                        value[row * m + column] = score
                rank(value, largest, starts, ranked, place)
                rows_left[:] = n
                columns_left[:] = n
                left_to_take = m * n
                for slot in range(m * m):
                    row, column = place[slot] // m, place[slot] % m
                    if rows_left[row] > 0 and columns_left[column] > 0:
                        rows_left[row] -= 1
                        columns_left[column] -= 1
                        mask[top + row, left + column] = True
                        left_to_take -= 1
                        if left_to_take == 0:
                            break
        return True

    return greedy


def greedy_blocks(scores: Floats, n: int, m: int) -> tuple[Bools, bool]:
    """In every ``m`` x ``m`` block take entries by falling ``|score|`` while their row and column hold under ``n``.

    ``scores`` is ``(rows, channels)``, C-contiguous float32 or float64, both divisible by ``m``; ties go to the lower
    row, then column. Returns the mask and whether every score was finite.
    """
    mask = np.zeros(scores.shape, np.bool_)
    kernel = _greedy_kernel(m)
    rows_a_block = max(1, BLOCK_ELEMENTS // max(1, m * scores.shape[1])) * m
    finite = map_blocks(lambda block: kernel(scores[block], n, mask[block]), row_blocks(scores.shape[0], rows_a_block))
    return mask, all(finite)


@jit
def _best_choices(scores: Floats, choices: Floats, m: int, mask: Bools) -> bool:
    """In every block of ``scores`` the first of the choices with the largest sum; whether all scores were finite.

    ``choices`` is ``(m * m, choices)`` of zeros and ones: each score is added to the sums of all choices at once.
    """
    finite = True
    sums = np.empty(choices.shape[1], scores.dtype)
    for top in range(0, scores.shape[0], m):
        for left in range(0, scores.shape[1], m):
            sums[:] = 0
            for entry in range(m * m):
                score = abs(scores[top + entry // m, left + entry % m])
                finite &= score < np.inf
                for choice in range(np.uint64(len(sums))):
                    sums[choice] += score * choices[entry, choice]
            best = 0
            for choice in range(1, len(sums)):
                if sums[choice] > sums[best]:
                    best = choice
            for entry in range(m * m):
                mask[top + entry // m, left + entry % m] = choices[entry, best] > 0
    return finite


def best_blocks(scores: Floats, choices: Bools, m: int) -> tuple[Bools, bool]:
    """In every ``m`` x ``m`` block, the one of ``choices`` that keeps most; the first of equals.

    ``choices`` is ``(choices, m * m)``. ``scores`` is ``(rows, channels)``, float32 or float64,
    both divisible by ``m``. Returns the mask and whether every score was finite.
    """
    mask = np.empty(scores.shape, np.bool_)
    ones = np.ascontiguousarray(choices.T).astype(scores.dtype)
    rows_a_block = max(1, BLOCK_ELEMENTS // max(1, len(choices) * scores.shape[1])) * m
    finite = map_blocks(
        lambda block: _best_choices(scores[block], ones, m, mask[block]), row_blocks(scores.shape[0], rows_a_block)
    )
    return mask, all(finite)
