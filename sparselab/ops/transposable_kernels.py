"""The CPU's kernel for masks that are N:M along rows and columns at once: a greedy mask completed and improved."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from sparselab.ops.jit import jit, jit_sums
from sparselab.ops.mask_kernels import BLOCK_ELEMENTS, Bools, Floats, Ints
from sparselab.ops.threads import map_blocks, row_blocks

Kernel: TypeAlias = Callable[..., Any]

_OUT_OF_REACH = 4.0
"""More than any two entries of a block, which are scaled to at most 1, can differ by."""


@jit
def _complete(value: Floats, kept: Bools, n: int) -> None:
    for row in range(len(value)):
        while kept[row].sum() < n:
            column = 0
            while kept[:, column].sum() >= n:
                column += 1
            best, from_row, from_column = -np.inf, 0, 0
            for k in range(len(value)):
                if kept[k, column]:
                    continue
                for j in range(len(value)):
                    if kept[k, j] and not kept[row, j]:
                        gain = (value[row, j] + value[k, column]) - value[k, j]
                        if gain > best:
                            best, from_row, from_column = gain, k, j
            kept[from_row, from_column] = False
            kept[row, from_column] = kept[from_row, column] = True


@cache
def _exchange_kernel(m: int) -> Kernel:
    """A kernel ``(value, kept, held, free, pairs)`` on one block: pairs of rows exchange entries while that gains.

    ``held`` and ``free`` are scratch: the values of what a row keeps and of what it does not, out
    of reach elsewhere. So the least that an entry given costs and the most that one taken brings
    are two reductions without a branch.
    """

    @jit_sums
    def cheapest(held: Floats, free: Floats) -> Any:
        least = held[0] - free[0]
        for j in range(1, m):
            least = min(least, held[j] - free[j])
        return least

    @jit_sums
    def dearest(free: Floats, held: Floats) -> Any:
        most = free[0] - held[0]
        for j in range(1, m):
            most = max(most, free[j] - held[j])
        return most

    @jit
    def exchange(value: Floats, kept: Bools, held: Floats, free: Floats, pairs: Ints) -> None:
        out_of_reach = value.dtype.type(_OUT_OF_REACH)
        for i in range(m):
            for j in range(m):
                held[i, j] = value[i, j] if kept[i, j] else out_of_reach
                free[i, j] = -out_of_reach if kept[i, j] else value[i, j]
        for pair in range(len(pairs)):
            i, k = pairs[pair, 0], pairs[pair, 1]
            lowest, highest = cheapest(held[i], free[k]), dearest(free[i], held[k])
            while highest > lowest:
                give = take = 0
                while held[i, give] - free[k, give] != lowest:
                    give += 1
                while free[i, take] - held[k, take] != highest:
                    take += 1
                for row, j, keep in ((i, give, False), (k, give, True), (i, take, True), (k, take, False)):
                    kept[row, j] = keep
                    held[row, j] = value[row, j] if keep else out_of_reach
                    free[row, j] = -out_of_reach if keep else value[row, j]
                lowest, highest = cheapest(held[i], free[k]), dearest(free[i], held[k])

    return exchange


@cache
def _improve_kernel(m: int) -> Kernel:
    """A kernel ``(scores, mask, n, pairs)`` over blocks of ``m`` rows and ``m`` columns."""
    exchange = _exchange_kernel(m)

    @jit
    def improve(scores: Floats, mask: Bools, n: int, pairs: Ints) -> None:
        across, down = np.empty((m, m), scores.dtype), np.empty((m, m), scores.dtype)
        held, free = np.empty((m, m), scores.dtype), np.empty((m, m), scores.dtype)
        kept_across, kept_down = np.empty((m, m), np.bool_), np.empty((m, m), np.bool_)
        for top in range(0, scores.shape[0], m):
            for left in range(0, scores.shape[1], m):
                largest, count = scores.dtype.type(0), 0
                for i in range(m):
                    for j in range(m):
                        across[i, j] = abs(scores[top + i, left + j])
                        largest = max(largest, across[i, j])
                        kept_across[i, j] = mask[top + i, left + j]
                        count += kept_across[i, j]
                # By a power of two, which rounds nothing.
                scale = scores.dtype.type(2.0 ** min(126, -math.frexp(largest)[1]))
                for i in range(m):
                    for j in range(m):
                        across[i, j] *= scale
                        down[j, i] = across[i, j]
                if count < n * m:
                    _complete(across, kept_across, n)
                exchange(across, kept_across, held, free, pairs)
                for i in range(m):
                    for j in range(m):
                        kept_down[j, i] = kept_across[i, j]
                exchange(down, kept_down, held, free, pairs)
                for i in range(m):
                    for j in range(m):
                        mask[top + i, left + j] = kept_down[j, i]

    return improve


def improve_blocks(scores: Floats, mask: Bools, n: int, m: int, pairs: Ints) -> None:
    """Complete and improve every ``m`` x ``m`` block of ``mask`` in place, as ``ops.transposable`` says.

    ``scores`` is ``(rows, channels)``, C-contiguous float32 or float64, finite; ``pairs`` are pairs
    of rows, ``(k, 2)``.
    """
    kernel = _improve_kernel(m)
    rows_a_block = max(1, BLOCK_ELEMENTS // max(1, m * scores.shape[1])) * m
    blocks = row_blocks(scores.shape[0], rows_a_block)
    map_blocks(lambda block: kernel(scores[block], mask[block], n, pairs), blocks)
