"""The seat of a backend: what it loads, and the few primitives that strategies are made of.

A strategy holds a ``Handle`` and never sees a device. Orders and indices go in and come out as numpy arrays, scores
stay where the backend put them.
"""

from __future__ import annotations

import importlib
import logging
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sparselab.core.registry import unknown_name
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


class Handle(Protocol):
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

    def swap_gains(self, order: Ints, slots: Ints) -> Floats:
        """``(slots, channels)``: what swapping a slot's channel with that at each position adds; 0 within a group."""

    def swaps(self, order: Ints, slots: Ints) -> Swaps:
        """The swaps among ``slots`` of ``order``: whole groups, rising."""

    def anneal(self, orders: Ints, steps: int, hot: float, cold: float, seeds: Ints) -> Ints:
        """Every chain's order after ``steps`` annealed swaps, or the best that chain met if that is another.

        ``orders`` is ``(chains, channels)``, ``seeds`` ``(chains,)``; chains know nothing of each other. Temperature, in
        units of ``retained``, falls geometrically from ``hot`` to ``cold``; 0 for both is descent.
        """

    def assign(self, orders: Ints, noise: Doubles, seeds: Ints) -> Ints:
        """Every chain's order after one linear sum assignment move for each entry of ``noise``.

        A move takes the channel of one random slot out of every group and deals them back so that the sum of
        ``table`` is the largest; staying put is charged ``noise[k] * Exp(1)``, in units of ``retained``, drawn a slot.
        With no noise no move ever loses, up to the resolution the backend searches at. Deterministic for ``seeds``.
        """


BACKENDS = ("cpu", "cuda", "reference")
_WORTH_A_GPU = 2**29  # rows * channels^2 from which "auto" takes one: some 800 x 800, an estimate (docs/performance.md)
_CHANNELS = 256  # that a thread copies at once
_log = logging.getLogger("sparselab")


def load(values: Floats, n: int, m: int, backend: str = "auto") -> Handle:
    """The resident handle of ``values``, non-negative and finite, ``(channels, rows)``: channels first.

    ``backend`` is one that ``resolve`` takes. Raises ``ValueError`` for another name.
    """
    name = resolve(backend, Size(values.shape[1], values.shape[0], m))
    module = importlib.import_module(f"sparselab.ops.{name}")
    handle: Handle = module.load(values, n, m)
    return handle


@dataclass(frozen=True)
class Size:
    """How large a problem is: its scores, and a group."""

    rows: int
    channels: int
    m: int


def resolve(backend: str, size: Size | None = None) -> str:
    """The backend that ``backend`` stands for, for a problem of ``size``; ``None`` for a large one.

    ``"cpu"`` (numba), ``"cuda"`` (CuPy), ``"reference"`` (numpy, slow and obvious) or ``"auto"``: ``"cuda"`` where there
    is a GPU to use and the problem is large enough to gain, and not beyond what the kernels take, else ``"cpu"``; it
    logs which. Raises ``ValueError`` for another name, listing those there are, and for ``"cuda"`` where it cannot be
    used, saying what is missing.
    """
    if backend == "auto":
        reason = None if size is None else _better_on_a_cpu(size)
        reason = reason or _cuda_missing()
        _log.info("backend auto: %s", "cuda" if reason is None else f"cpu ({reason})")
        return "cuda" if reason is None else "cpu"
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, ("auto", *BACKENDS))
    if backend == "cuda" and (reason := _cuda_missing()) is not None:
        raise ValueError(f"backend 'cuda' cannot be used here: {reason}; valid here: auto, cpu, reference")
    return backend


def _better_on_a_cpu(size: Size) -> str | None:
    from sparselab.ops.cuda.kernels import too_large

    if size.rows * size.channels**2 < _WORTH_A_GPU:
        return "a small problem"
    return too_large(size.channels, size.m)


def power_of_two(values: Floats) -> float:
    """The scale of a handle: scores divided by it are exact, and the largest is between 1 and 2."""
    largest = float(values.max(initial=0.0))
    return math.ldexp(0.5, math.frexp(largest)[1]) if largest > 0 else 1.0


def resident(values: Floats | Doubles, scale: float) -> Floats:
    """``values`` in units of ``scale``, as a handle keeps them: float32, each channel's scores beside each other."""
    out = np.empty(values.shape, np.float32)

    def divide(block: slice) -> None:
        np.divide(values[block], values.dtype.type(scale), out=out[block], casting="same_kind")

    map_blocks(divide, row_blocks(len(values), _CHANNELS))
    return out


def _cuda_missing() -> str | None:
    from sparselab.ops import cuda

    return cuda.missing()
