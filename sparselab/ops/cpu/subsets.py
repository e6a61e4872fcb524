"""The best partition of a few channels into scored groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.jit import jit
from sparselab.ops.matrix import Doubles, Ints


@jit
def _count(mask: int) -> int:
    """How many channels are in a set."""
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@jit
def solve(masks: Ints, values: Doubles, channels: int) -> tuple[Doubles, NDArray[np.int32]]:
    """For every set of channels (a bit mask) the most its best partition is worth, and a group of that partition.

    ``masks`` and ``values`` are the groups and what they are worth. Sets that the recursion never meets stay at minus
    infinity: the group of the lowest channel is taken out first, so only the whole set holds channel 0.
    """
    full = (1 << channels) - 1
    m = _count(masks[0])
    lowest = np.empty(len(masks), np.int64)
    for g in range(len(masks)):
        lowest[g] = masks[g] & -masks[g]
    by_lowest = np.argsort(lowest)
    first = np.zeros(channels + 1, np.int64)  # groups by their lowest channel
    for channel in range(channels):
        first[channel + 1] = first[channel]
        while first[channel + 1] < len(masks) and lowest[by_lowest[first[channel + 1]]] == 1 << channel:
            first[channel + 1] += 1
    worth = np.full(full + 1, -np.inf)
    chosen = np.full(full + 1, -1, np.int32)
    worth[0] = 0.0
    for half in range(1, full // 2 + 2):
        left = half * 2 if half <= full // 2 else full
        if _count(left) % m:
            continue
        channel = 0
        while not left >> channel & 1:
            channel += 1
        for k in range(first[channel], first[channel + 1]):
            g = by_lowest[k]
            if masks[g] & ~left == 0:
                total = values[g] + worth[left & ~masks[g]]
                if total > worth[left]:
                    worth[left] = total
                    chosen[left] = g
    return worth, chosen
