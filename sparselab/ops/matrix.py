"""What strategies are made of: a loaded matrix and the few primitives on it, once per backend.

A strategy holds a ``LoadedMatrix`` and never sees a device. Orders and indices go in and come out as numpy arrays;
scores stay where the backend put them.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.threads import map_blocks, row_blocks

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Swaps(Protocol):
    """All swaps of two channels of different groups among some slots of an order, kept up to date as swaps are made.

    A swap is two places among those slots. ``values`` is what each of their groups retains now.
    """

    values: Doubles

    def best(self, share: float, least: float) -> Ints:
        """``(k, 2)``: the best swap, then again and again the best between groups that none before touched.

        Only swaps that gain more than ``least`` and than ``share`` of the best. The lower places of equal ones.
        """

    def make(self, pairs: Ints) -> Ints:
        """Make swaps that touch no group twice; the whole order then."""


class LoadedMatrix(Protocol):
    """One saliency matrix, resident where a backend computes, in units of ``scale`` (a power of two).

    ``order`` is int64 ``(channels,)``. A *slot* is a position of the order; slots ``[g*m, (g+1)*m)`` are group ``g``.
    Values are exact to 1e-5 relative against a count in float64, and do not depend on the number of threads.
    """

    rows: int
    channels: int
    n: int
    m: int
    scale: float

    @property
    def overhead(self) -> float:
        """How many seconds longer an assignment move takes than on the CPU for masks along the channels."""

    @property
    def side_by_side(self) -> int:
        """How many chains ``assign`` makes a move of in little more than the time of one."""

    def retained(self, order: Ints) -> float:
        """Retained saliency of ``order``."""

    def channel_sums(self) -> Doubles:
        """The sum of every channel's scores, ``(channels,)``."""

    def group_table(self, groups: Ints) -> Doubles:
        """Retained saliency ``(k,)`` of each row of ``groups``, ``(k, m)`` channels."""

    def completions(self, prefixes: Ints) -> Floats:
        """``(k, channels)``: what each row of ``prefixes``, ``(k, m - 1)`` channels, retains with each last channel."""

    def best_partitions(self, order: Ints, sets: Ints, subsets: Ints, parts: Ints) -> tuple[Doubles, Ints]:
        """The gain ``(k,)`` and the channels ``(k, size)`` of the best re-partition of each of ``sets``' channels.

        ``sets`` is ``(k, groups)``; the channels of a set, rising, are cut into the ``subsets`` ``(s, m)`` that
        ``parts`` ``(p, groups)`` combines. The first of equal partitions wins.
        """

    def table(self, order: Ints, slots: Ints, channels: Ints) -> Floats:
        """``(slots, channels)``: what the slot's group retains with the slot's channel replaced by ``channel``.

        Holds every quantity that local search needs; meaningless where ``channel`` is elsewhere in the same group.
        """

    def swaps(self, order: Ints, slots: Ints) -> Swaps:
        """The swaps among ``slots`` of ``order``: whole groups, rising."""

    def anneal(self, orders: Ints, steps: int, hot: float, cold: float, seeds: Ints) -> Ints:
        """Every chain's order after ``steps`` annealed swaps, or the best that chain met if that is another.

        ``orders`` is ``(chains, channels)``, ``seeds`` ``(chains,)``; chains know nothing of each
        other. Temperature, in units of ``retained``, falls geometrically from ``hot`` to ``cold``;
        0 for both is descent.
        """

    def assign(self, orders: Ints, noise: Doubles, seeds: Ints) -> Ints:
        """Every chain's order after one linear sum assignment move for each entry of ``noise``.

        A move takes the channel of one random slot out of every group and deals them back so that
        the sum of ``table`` is the largest; staying put is charged ``noise[k] * Exp(1)``, in units
        of ``retained``, drawn for each slot. With no noise no move ever loses, up to the resolution
        the backend searches at. Deterministic for ``seeds``.
        """


@runtime_checkable
class HasStandIn(LoadedMatrix, Protocol):
    """A loaded matrix with another one, of the same channels, that takes a fraction of the time.

    Its good orders are good ones to start from.
    """

    @property
    def stand_in(self) -> LoadedMatrix:
        """The other one; its values mean nothing to this one."""


_CHANNELS = 256  # that a thread copies at once


def distinct(groups: Ints, channels: int) -> Ints:
    """Where each of the different ``groups`` ``(k, m)`` of ``channels`` channels, members rising, is met first.

    >>> distinct(np.array([[1, 3], [0, 2], [1, 3]]), 4).tolist()
    [1, 0]
    """
    keys = groups @ channels ** np.arange(groups.shape[1])[::-1]
    first: Ints = np.unique(keys, return_index=True)[1]
    return first


def power_of_two(values: Floats) -> float:
    """The scale of a loaded matrix: scores divided by it are exact, and the largest is between 1 and 2."""
    largest = float(values.max(initial=0.0))
    return math.ldexp(0.5, math.frexp(largest)[1]) if largest > 0 else 1.0


def resident(values: Floats | Doubles, scale: float) -> Floats:
    """``values`` in units of ``scale``, as a loaded matrix keeps them.

    They are float32, with each channel's scores beside each other.
    """
    out = np.empty(values.shape, np.float32)

    def divide(block: slice) -> None:
        np.divide(values[block], values.dtype.type(scale), out=out[block], casting="same_kind")

    map_blocks(divide, row_blocks(len(values), _CHANNELS))
    return out
