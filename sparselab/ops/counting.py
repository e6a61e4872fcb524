"""What each group retains, counted without a sort."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.jit import jit
from sparselab.ops.matrix import Doubles, Ints


def group_sums(scores: NDArray[Any], columns: Ints, n: int, m: int) -> Doubles:
    """``(rows, groups)``: the sum in float64 of the ``n`` largest of each ``m`` neighbours in ``scores[:, columns]``.

    ``scores`` are ``(rows, channels)``, float32 or float64, and not negative.

    >>> group_sums(np.array([[1.0, 5, 2, 4]]), np.array([3, 1, 0, 2]), 2, 4)
    array([[9.]])
    """
    sums = np.empty((len(scores), len(columns) // m))
    _sum_largest(np.ascontiguousarray(scores.take(columns, axis=1)), n, m, sums)
    return sums


@jit
def _sum_largest(scores: NDArray[Any], n: int, m: int, out: Doubles) -> None:
    top = np.empty(n, np.float64)
    for row in range(out.shape[0]):
        for group in range(out.shape[1]):
            first = group * m
            if n == 2 and m == 4:  # the case that is asked for most
                a, b = np.float64(scores[row, first]), np.float64(scores[row, first + 1])
                c, d = np.float64(scores[row, first + 2]), np.float64(scores[row, first + 3])
                high, low, high_2, low_2 = max(a, b), min(a, b), max(c, d), min(c, d)
                out[row, group] = max(high, high_2) + max(min(high, high_2), max(low, low_2))
                continue
            top[:] = 0.0
            for k in range(first, first + m):
                passed = np.float64(scores[row, k])
                for rank in range(n):
                    held = top[rank]
                    top[rank] = max(held, passed)
                    passed = min(held, passed)
            out[row, group] = top.sum()
