"""Columns pruned one after the other on the CPU: all of a row before the next row."""

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

_ROWS = 1024
"""Rows that a thread takes at a time: some 3 ms of work, so that starting it costs little."""


@cache
def _kernel(m: int, positions: int) -> Callable[..., bool]:
    """A kernel ``(rows, factor, n, mask, errors) -> all finite`` for groups of the constants ``m`` and ``positions``."""
    together = m * positions

    @jit
    def prune(rows: Floats, factor: Floats, n: int, mask: Bools, errors: Floats) -> bool:
        columns = rows.shape[1]
        scores = np.empty(together, rows.dtype)
        finite = True
        for number in range(rows.shape[0]):
            row = rows[number]
            for first in range(0, columns, together):
                for i in range(together):
                    scores[i] = abs(row[first + i] / factor[first + i, first + i])
                    finite &= scores[i] < np.inf
                for i in range(together):
                    rank = 0
                    for j in range(i % positions, together, positions):
                        rank += (scores[j] >= scores[i]) if j < i else (scores[j] > scores[i])
                    mask[number, first + i] = rank < n
                for column in range(first, first + together):
                    if mask[number, column]:
                        errors[number, column] = 0
                        continue
                    error = row[column] / factor[column, column]
                    errors[number, column] = error
                    weights = factor[column]
                    for later in range(np.uint64(column), np.uint64(columns)):
                        row[later] -= error * weights[later]
        return finite

    return prune


def prune_columns(rows: Floats, factor: Floats, n: int, m: int, positions: int = 1) -> tuple[Bools, Floats, bool]:
    """``ops.columns.prune_columns`` on C-contiguous arrays, ``rows`` changed in place.

    Returns the mask, the quotients, and whether every score was finite (nothing means anything where they were not).
    """
    mask = np.empty(rows.shape, np.bool_)
    errors = np.empty_like(rows)

    def run(part: slice) -> bool:
        return _kernel(m, positions)(rows[part], factor, n, mask[part], errors[part])

    return mask, errors, all(map_blocks(run, row_blocks(len(rows), _ROWS)))
