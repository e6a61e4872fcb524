"""The best group of every channel among all groups of four: the one sweep that a bound for many channels needs.

What four channels retain is, per row, the sum of the ``n`` largest of four bytes. With ``b`` the ``n``-th largest of the
first three and ``x`` the fourth that is ``top_1 + ... + top_{n-1} + max(b, x)``, and ``2 max(b, x) = b + x + |b - x|``,
so that one product of ``differences`` holds 64 prefixes with every last channel. All sums are integers, and exact.
"""

from __future__ import annotations

import numpy as np

from sparselab.ops.cpu.annealing import _largest
from sparselab.ops.cpu.differences import TILE, Bytes, Sums, product
from sparselab.ops.jit import jit
from sparselab.ops.matrix import Ints

LOWEST = np.int32(-(2**30))
MOST = 2**26  # of a charge: the sums of four, twice, and of bytes stay below 2^30
M = 4  # the size of a group
_PREFIXES = 64  # whose boundaries are held at once


@jit
def _prefix(scores: Bytes, prefix: Ints, n: int, top: Bytes, out: Bytes, row: int) -> int:
    """The ``n``-th largest of three channels into ``out[row]``; twice the sum of those above it, and its own once."""
    total = np.int32(0)
    if n == 2:
        i, j, k = prefix
        for r in range(np.uint64(scores.shape[1])):
            low, high, last = min(scores[i, r], scores[j, r]), max(scores[i, r], scores[j, r]), scores[k, r]
            middle = max(low, min(high, last))
            out[row, r] = middle
            total += np.int32(2) * np.int32(max(high, last)) + np.int32(middle)
        return total  # type: ignore[return-value]
    _largest(scores, prefix, -1, n, top)
    for r in range(np.uint64(scores.shape[1])):
        out[row, r] = top[n - 1, r]
        total += np.int32(top[n - 1, r])
    for rank in range(n - 1):
        for r in range(np.uint64(scores.shape[1])):
            total += np.int32(2) * np.int32(top[rank, r])
    return total  # type: ignore[return-value]


@jit
def best_groups(scores: Bytes, charges: Sums, n: int, first: int, best: Sums) -> None:
    """Raise ``best`` of every channel to twice the most that a group with it gains, over those that begin at ``first``.

    A group gains what it retains less the ``charges`` of its channels. ``best`` is int32 ``(channels,)``, as ``charges``
    are; the sums must stay below 2^30. The channels are a multiple of four.
    """
    channels, width = scores.shape
    bounds = np.zeros((_PREFIXES, width), np.uint8)
    top = np.empty((n + 1, width), np.uint8)
    room = np.empty(_PREFIXES * channels, np.int32)
    left = np.empty(_PREFIXES, np.int32)
    right = np.empty(channels, np.int32)
    for channel in range(channels):
        total = np.int32(0)
        for r in range(np.uint64(width)):
            total += np.int32(scores[channel, r])
        right[channel] = total - np.int32(2) * charges[channel]
    prefix = np.array([first, 0, 0])
    for second in range(first + 1, channels - 2):
        prefix[1] = second
        for start in range(second + 1, channels - 1, _PREFIXES):
            count = min(_PREFIXES, channels - 1 - start)
            for k in range(count):
                prefix[2] = start + k
                paid = charges[first] + charges[second] + charges[start + k]
                left[k] = _prefix(scores, prefix, n, top, bounds, k) - np.int32(2) * paid
            begin = (start + 1) // TILE * TILE
            padded = (count + TILE - 1) // TILE * TILE
            sums = room[: padded * (channels - begin)].reshape(padded, channels - begin)
            product(bounds[:padded], scores[begin:], sums)
            for k in range(count):
                third, offset, most = start + k, left[k], LOWEST
                for last in range(np.uint64(third + 1), np.uint64(channels)):
                    gain = np.int32(offset + right[last] + sums[k, last - np.uint64(begin)])
                    best[last] = max(best[last], gain)
                    most = max(most, gain)
                best[first] = max(best[first], most)
                best[second] = max(best[second], most)
                best[third] = max(best[third], most)
