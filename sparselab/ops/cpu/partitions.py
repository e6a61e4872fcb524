"""Best partitions of sets of groups, looked up in a table of what groups retain.

A set of three groups at 2:4 has 495 groups in 5,775 partitions. Each group is scored once; where a matrix has few
channels, once for all sets and rounds: the table of every group, in colexicographic order, whose index of the channels
``c_1 < ... < c_m`` is ``sum_k binomial(c_k, k)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.cpu.tables import group_values
from sparselab.ops.jit import jit
from sparselab.ops.matrix import Doubles, Floats, Ints

_CHUNK = 512


@jit
def binomials(channels: int, m: int) -> Ints:
    """``out[c, k]`` is ``c`` choose ``k``, for ``c <= channels`` and ``k <= m``."""
    out = np.zeros((channels + 1, m + 1), np.int64)
    for c in range(channels + 1):
        out[c, 0] = 1
        for k in range(1, min(c, m) + 1):
            out[c, k] = out[c - 1, k - 1] + out[c - 1, k]
    return out


@jit
def score_groups(values: Floats, choose: Ints, n: int, start: int, out: Doubles) -> None:
    """What the groups from index ``start`` on retain, into ``out``."""
    m = choose.shape[1] - 1
    group = np.empty(m, np.int64)
    left = start
    for k in range(m, 0, -1):
        channel = k - 1
        while choose[channel + 1, k] <= left:
            channel += 1
        group[k - 1] = channel
        left -= choose[channel, k]
    groups = np.empty((_CHUNK, m), np.int64)
    for first in range(0, len(out), _CHUNK):
        count = min(_CHUNK, len(out) - first)
        for g in range(count):
            groups[g] = group
            k = 0
            while k + 1 < m and group[k] + 1 == group[k + 1]:
                group[k] = k
                k += 1
            group[k] += 1
        group_values(values, groups[:count], n, out[first : first + count])


@jit
def best_partitions(
    values: Floats,
    order: Ints,
    sets: Ints,
    subsets: Ints,
    parts: NDArray[np.uint32],
    n: int,
    choose: Ints,
    known: Doubles,
    gains: Doubles,
    dealt: Ints,
) -> None:
    """Gain and channels of the best partition of every set; see ``LoadedMatrix.best_partitions``.

    ``parts`` is ``(groups, p)``. ``known`` is the table of every group, or empty; channels are taken in rising order.
    """
    m, size = subsets.shape[1], subsets.shape[1] * sets.shape[1]
    channels = np.empty(size, np.int64)
    groups = np.empty_like(subsets)
    worth = np.empty(len(subsets))
    now = np.empty(sets.shape[1])
    total = np.empty(parts.shape[1])
    for k in range(len(sets)):
        for g in range(sets.shape[1]):
            channels[g * m : (g + 1) * m] = order[sets[k, g] * m : sets[k, g] * m + m]
        group_values(values, channels.reshape(-1, m), n, now)
        channels.sort()
        if len(known):
            for s in range(len(subsets)):
                index = np.int64(0)
                for member in range(m):
                    index += choose[channels[subsets[s, member]], member + 1]
                worth[s] = known[index]
        else:
            for s in range(len(subsets)):
                for member in range(m):
                    groups[s, member] = channels[subsets[s, member]]
            group_values(values, groups, n, worth)
        for p in range(np.uint64(len(total))):
            total[p] = worth[parts[0, p]]
        for g in range(1, len(parts)):
            row = parts[g]
            for p in range(np.uint64(len(total))):
                total[p] += worth[row[p]]
        top = total[0]
        for p in range(np.uint64(len(total))):
            top = max(top, total[p])
        found = 0
        while total[found] != top:
            found += 1
        gains[k] = top - now.sum()
        for g in range(len(parts)):
            for member in range(m):
                dealt[k, g * m + member] = channels[subsets[parts[g, found], member]]
