"""Float kernels: what groups retain, and the (max, +) product that holds every swap of channels.

Take channel ``i`` out of its group. Per row let ``t_1 >= t_2 >= ...`` be the sorted scores of the M-1 that stay. With
any channel ``x`` in its place the group retains, exactly,

    base[i] + sum_r max(b[i, r], x[r]),     base[i] = sum_r (t_1 + ... + t_{N-1}),     b[i, r] = t_N.

``b`` is the *boundary* of slot ``i``. Scores are float32 ``(channels, rows)``; rows are summed in
blocks of ``BLOCK`` in float32, blocks in float64.
"""

from __future__ import annotations

import numpy as np

from sparselab.ops.jit import jit, jit_sums
from sparselab.ops.matrix import Doubles, Floats, Ints

BLOCK = 4096


@jit_sums
def sum_of_maxima(bounds: Floats, rows: Floats, start: int, stop: int, out: Doubles) -> None:
    """Add ``sum_r max(bounds[s, r], rows[x, r])`` over ``start <= r < stop`` to ``out[s, x]``, in tiles of 4 x 2."""
    slots, channels = bounds.shape[0], rows.shape[0]
    zero = np.float32(0)
    for x in range(0, channels, 2):
        x1 = min(x + 1, channels - 1)
        for s in range(0, slots, 4):
            s1, s2, s3 = min(s + 1, slots - 1), min(s + 2, slots - 1), min(s + 3, slots - 1)
            a0 = a1 = a2 = a3 = c0 = c1 = c2 = c3 = zero
            for r in range(np.uint64(start), np.uint64(stop)):  # unsigned bounds: a signed range does not vectorise
                u, v = rows[x, r], rows[x1, r]
                b0, b1, b2, b3 = bounds[s, r], bounds[s1, r], bounds[s2, r], bounds[s3, r]
                a0 += max(b0, u)
                a1 += max(b1, u)
                a2 += max(b2, u)
                a3 += max(b3, u)
                c0 += max(b0, v)
                c1 += max(b1, v)
                c2 += max(b2, v)
                c3 += max(b3, v)
            for k, a, c in ((0, a0, c0), (1, a1, c1), (2, a2, c2), (3, a3, c3)):
                if s + k < slots:
                    out[s + k, x] += a
                    if x1 > x:
                        out[s + k, x1] += c


@jit
def _largest(values: Floats, group: Ints, skip: int, count: int, start: int, stop: int, top: Floats) -> None:
    """The ``count`` largest scores per row of ``group`` without its member ``skip`` into ``top``, falling."""
    top[:, :] = 0.0
    for member in range(len(group)):
        if member == skip:
            continue
        column = values[group[member]]
        for k in range(count):
            for r in range(np.uint64(stop - start)):
                # ``carry`` walks down the ranks: each rank keeps the larger and passes the smaller on.
                carry = column[np.uint64(start) + r] if k == 0 else top[count, r]
                held = top[k, r]
                top[k, r] = max(held, carry)
                top[count, r] = min(held, carry)


@jit_sums
def _total(top: Floats, count: int, width: int) -> float:
    total = 0.0
    for k in range(count):
        part = np.float32(0)
        for r in range(np.uint64(width)):
            part += top[k, r]
        total += np.float64(part)
    return total


@jit_sums
def _two_of_four(values: Floats, group: Ints, start: int, stop: int) -> float:
    """What one group retains at 2:4: the case that is asked for most, without a scratch array."""
    p, q, s, t = values[group[0]], values[group[1]], values[group[2]], values[group[3]]
    part = np.float32(0)
    for r in range(np.uint64(start), np.uint64(stop)):
        high, low = max(p[r], q[r]), min(p[r], q[r])
        high_2, low_2 = max(s[r], t[r]), min(s[r], t[r])
        part += max(high, high_2) + max(min(high, high_2), max(low, low_2))
    return part  # type: ignore[return-value]


@jit
def group_values(values: Floats, groups: Ints, n: int, out: Doubles) -> None:
    """What each row of ``groups``, ``(k, m)`` channels, retains, into ``out`` ``(k,)``."""
    count, m = groups.shape
    rows = values.shape[1]
    top = np.empty((n + 1, min(rows, BLOCK)), np.float32)
    for g in range(count):
        total = 0.0
        for start in range(0, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            if n == 2 and m == 4:
                total += _two_of_four(values, groups[g], start, stop)
            else:
                _largest(values, groups[g], -1, n, start, stop, top)
                total += _total(top, n, stop - start)
        out[g] = total


@jit
def boundaries(values: Floats, groups: Ints, skipped: Ints, n: int, bounds: Floats, base: Doubles) -> None:
    """Boundary ``(k, rows)`` and base ``(k,)`` of each of ``groups`` without its member ``skipped`` (-1: none)."""
    rows = values.shape[1]
    top = np.empty((n + 1, min(rows, BLOCK)), np.float32)
    for k in range(len(groups)):
        total = 0.0
        for start in range(0, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            _largest(values, groups[k], skipped[k], n, start, stop, top)
            total += _total(top, n - 1, stop - start)
            bounds[k, start:stop] = top[n - 1, : stop - start]
        base[k] = total
