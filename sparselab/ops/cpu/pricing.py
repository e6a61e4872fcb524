"""The groups of four that gain most beyond what their channels are charged, among all that some prefixes begin.

What four channels retain is, per row, the sum of the ``n`` largest of four bytes. With ``b`` the ``n``-th largest of the
first three, the prefix, and ``x`` the fourth that is ``top_1 + ... + top_{n-1} + max(b, x)``, and ``2 max(b, x) = b + x
+ |b - x|``, so that one product of ``differences`` holds 64 prefixes with every last channel. All sums are integers, and
exact. Where a byte is too coarse, the product of ``tables`` does the same in float32, in some four times the time.
"""

from __future__ import annotations

import numpy as np

from sparselab.ops.cpu.annealing import _largest, _middle
from sparselab.ops.cpu.differences import TILE, Bytes, Sums, product
from sparselab.ops.cpu.tables import BLOCK, boundaries, sum_of_maxima
from sparselab.ops.jit import jit, jit_sums
from sparselab.ops.matrix import Doubles, Floats, Ints

Gains = Sums | Doubles
LOWEST = -(2**30)
HUGE = 1e300
MOST = 2**26  # of a charge: the sums of four, twice, and of bytes stay below 2^30
M = 4  # the size of a group
_PREFIXES = 64  # whose boundaries are held at once


@jit
def _prefix(scores: Bytes, prefix: Ints, n: int, apart: Sums, top: Bytes, out: Bytes, row: int) -> int:
    """The ``n``-th largest of three channels into ``out[row]``; twice the sum of those above it, and its own once.

    At 2:4 that sum follows from the differences of pairs: ``|a - b| + |b - c| + |a - c|`` is twice the largest less the
    smallest.
    """
    i, j, k = prefix
    if n == 2:
        _middle(scores, i, j, k, out, row)
        differences = (apart[i, j] + apart[j, k] + apart[i, k]) // 2
        return differences + apart[i, -1] + apart[j, -1] + apart[k, -1]  # type: ignore[no-any-return]
    total = np.int32(0)
    _largest(scores, prefix, -1, n, top)
    for r in range(np.uint64(scores.shape[1])):
        out[row, r] = top[n - 1, r]
        total += np.int32(top[n - 1, r])
    for rank in range(n - 1):
        for r in range(np.uint64(scores.shape[1])):
            total += np.int32(2) * np.int32(top[rank, r])
    return total  # type: ignore[return-value]


@jit
def _better_half(groups: Ints, gains: Gains, least: float) -> tuple[int, float]:
    """Move what gains more than the median to the front; how many those are, and the most that any other gains."""
    half = len(gains) // 2
    least = max(least, np.partition(gains, half)[half])
    held = 0
    for k in range(len(gains)):
        if gains[k] > least:
            gains[held] = gains[k]
            groups[held] = groups[k]
            held += 1
    return held, least


@jit_sums
def _select(
    left: Gains,
    right: Gains,
    sums: Gains,
    prefixes: Ints,
    rising: bool,
    held: int,
    least: float,
    groups: Ints,
    gains: Gains,
) -> tuple[int, float]:
    """Add those that gain more than ``least`` to the ``held`` groups: ``left`` of a prefix, ``right`` of a last channel,
    and ``sums`` of both, whose columns are the last channels there are. How many there are then, and the new least."""
    channels = len(right)
    begin, kind = channels - sums.shape[1], sums.dtype.type
    for k in range(len(prefixes)):
        i, j, third = prefixes[k]
        first, most = third + 1 if rising else 0, kind(least - left[k])
        for last in range(np.uint64(first), np.uint64(channels)):
            most = max(most, kind(right[last] + sums[k, last - np.uint64(begin)]))
        if left[k] + most <= least:
            continue
        for last in range(first, channels):
            gain = left[k] + right[last] + sums[k, last - begin]
            if gain > least and last != i and last != j and last != third:
                if held == len(gains):
                    held, least = _better_half(groups, gains, least)
                    if gain <= least:
                        continue
                gains[held] = gain
                groups[held, 0], groups[held, 1], groups[held, 2], groups[held, 3] = i, j, third, last
                held += 1
    return held, least


@jit
def gaining(
    scores: Bytes, apart: Sums, charges: Sums, n: int, prefixes: Ints, rising: bool, groups: Ints, gains: Sums
) -> tuple[int, float]:
    """The groups that gain most of those that ``prefixes`` ``(k, 3)`` begin, into ``groups`` ``(size, 4)`` and ``gains``.

    A group gains twice what it retains less the ``charges`` of its channels. Last channels are those beyond the prefix
    where ``rising``, else all that are not in it. ``apart`` ``(channels, channels + 1)`` has the differences of pairs,
    and in its last column the sums of channels. Returns how many groups there are, and the most that any other gains.
    Sums must stay below 2^30; the channels are a multiple of four.
    """
    channels, width = scores.shape
    bounds = np.zeros((_PREFIXES, width), np.uint8)
    top = np.empty((n + 1, width), np.uint8)
    room = np.empty(_PREFIXES * channels, np.int32)
    left = np.empty(_PREFIXES, np.int32)
    right = apart[:, -1] - np.int32(2) * charges
    held = 0
    least: float = LOWEST
    for start in range(0, len(prefixes), _PREFIXES):
        block = prefixes[start : start + _PREFIXES]
        for k in range(len(block)):
            paid = charges[block[k, 0]] + charges[block[k, 1]] + charges[block[k, 2]]
            left[k] = _prefix(scores, block[k], n, apart, top, bounds, k) - np.int32(2) * paid
        begin = (block[:, 2].min() + 1) // TILE * TILE if rising else 0
        padded = (len(block) + TILE - 1) // TILE * TILE
        sums = room[: padded * (channels - begin)].reshape(padded, channels - begin)
        product(bounds[:padded], scores[begin:], sums)
        held, least = _select(left, right, sums, block, rising, held, least, groups, gains)
    return held, least


@jit
def gaining_exactly(
    values: Floats, charges: Doubles, n: int, prefixes: Ints, groups: Ints, gains: Doubles
) -> tuple[int, float]:
    """Like ``gaining``, where ``rising``, of float32 scores: the gains are what a group retains less its charges."""
    channels, rows = values.shape
    bounds, base = np.empty((_PREFIXES, rows), np.float32), np.empty(_PREFIXES)
    none = np.full(_PREFIXES, -1)
    held, least = 0, -HUGE
    for start in range(0, len(prefixes), _PREFIXES):
        block = prefixes[start : start + _PREFIXES]
        boundaries(values, block, none, n, bounds, base)
        for k in range(len(block)):
            base[k] -= charges[block[k, 0]] + charges[block[k, 1]] + charges[block[k, 2]]
        begin = block[:, 2].min() + 1
        sums = np.zeros((len(block), channels - begin))
        for row in range(0, rows, BLOCK):
            sum_of_maxima(bounds[: len(block)], values[begin:], row, min(row + BLOCK, rows), sums)
        held, least = _select(base, -charges, sums, block, True, held, least, groups, gains)
    return held, least
