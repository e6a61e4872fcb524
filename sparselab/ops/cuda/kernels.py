"""What the kernels take, and launches that check it.

A raw kernel would read anything that it is given as what it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.kernel_sources import kernel_source

MAX_GROUP = 64
MAX_GROUPS = 4096  # that matching.cu deals among

# One compiled text each: the files, in order.
MODULES = {
    "search": ("common", "groups", "product", "best_swaps", "partitions", "matching", "deal", "anneal"),
    "mask": ("mask_1d",),
}

# A parameter is ``dtype name`` or ``dtype name[shape]``. Equal names are equal sizes; M is the
# group's size, and a number stands for itself.
SIGNATURES = {
    "group_values": "float32 values[channels,rows], int64 rows, int32 groups[count,M], float64 out[count]",
    "channel_sums": "float32 values[channels,rows], int64 rows, float64 out[channels]",
    "boundaries": "float32 values[channels,rows], int64 rows, int32 groups[count,M], int32 skipped[count], "
    "float32 bounds[count,rows], float64 base[count]",
    "sum_of_maxima": "float32 left[lefts,rows], int32 lefts, float32 right[channels,rows], int32 index[rights], "
    "int32 rights, int64 rows, int32 slice, float32 partial[slices,lefts,rights]",
    "add_slices": "float32 partial[slices,lefts,rights], int32 slices, float64 base[lefts], int32 lefts, int32 rights, "
    "float32 table[lefts,rights]",
    "sum_of_differences": "uint32 left[chains,groups,words], uint32 right[channels,words], int32 index[chains,groups], "
    "int32 groups, int64 words, int32 slice, int32 slices, int32 width, int32 sums[chains,groups,width]",
    "best_swaps": "float32 table[slots,slots], int32 column[slots], float64 value[groups], uint8 is_free[groups], "
    "int32 slots, float32 gain[groups], int64 pair[groups]",
    "put_rows": "float32 part[count,width], int32 place[count], int32 count, int32 width, float32 table[slots,width]",
    "subset_values": "float32 values[channels,rows], int64 rows, int32 order[channels], int32 sets[sets,members], "
    "int32 members, int32 subsets[count,M], int32 count, int32 chosen[sets,size], float64 worth[sets,count]",
    "best_partitions": "int32 sets[sets,members], int32 members, int32 subsets[count,M], int32 count, "
    "int32 parts[members,ways], int32 ways, int32 chosen[sets,size], float64 worth[sets,count], float64 value[groups], "
    "float64 gains[sets], int32 dealt[sets,size]",
    "open_slots": "uint32 scores[channels,words], int64 words, int32 orders[chains,channels], uint64 seeds[chains], "
    "int64 made[chains], int32 slots[chains,groups], int32 index[chains,groups], uint32 bounds[chains,groups,words], "
    "int32 width, int32 sums[chains,groups,width]",
    "deal_back": "int32 sums[chains,groups,width], int32 groups, int32 width, uint64 seeds[chains], float64 noise[moves], "
    "int64 made[chains], int32 slots[chains,groups], int32 index[chains,groups], int32 scratch[chains,2,groups], "
    "int32 orders[chains,channels]",
    "anneal_swaps": "uint32 scores[channels,words], int64 words, int32 channels, uint64 seeds[chains], int64 steps, "
    "float64 hot, float64 cooling, uint32 bounds[chains,channels,words], int32 own[chains,channels], "
    "int32 orders[chains,channels], int32 best[chains,channels]",
    "mask_1d": "float32 scores[groups,M], uint8 mask[groups,M], int64 groups",
}


def too_large(channels: int, m: int) -> str | None:
    """Why the kernels do not take ``channels`` in groups of ``m``; ``None`` where they do."""
    if m > MAX_GROUP:
        return f"the CUDA kernels take groups of up to {MAX_GROUP} channels, not {m}"
    if channels // m > MAX_GROUPS:
        return f"the CUDA kernels take up to {MAX_GROUPS} groups, not {channels // m}"
    return None


Launch = Callable[[], object]


class Device(Protocol):
    """Where kernels run: arrays there and back, and launches. CuPy's in production, a CPU that plays GPU in the tests.

    Arrays on it are opaque but for ``shape``, ``dtype`` and ``flags.c_contiguous``. All work is in the order it was
    asked for.
    """

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array on the device, its content undefined. Raises ``MemoryError``."""

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy of a host array on the device. Raises ``MemoryError``."""

    def download(self, array: Any) -> NDArray[Any]:
        """A copy of a device array on the host; waits for all work before."""

    def owns(self, array: Any) -> bool:
        """Whether ``array`` is on this device."""

    def room(self) -> int:
        """Bytes that can still be allocated."""

    def kernel(
        self,
        module: str,
        kernel: str,
        n: int,
        m: int,
        grid: tuple[int, int, int],
        threads: int,
        arguments: Sequence[Any],
    ) -> Launch:
        """A kernel with checked arguments, device arrays and numpy scalars, for ``run``."""

    def run(self, launches: Sequence[Launch], times: int = 1) -> None:
        """Start ``launches`` in turn, ``times`` over; returns before they are done."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel; ``shape`` is ``None`` for a number."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[str, ...] | None


@cache
def signature(kernel: str) -> tuple[Parameter, ...]:
    """The parameters of a kernel.

    >>> [parameter.name for parameter in signature("channel_sums")]
    ['values', 'rows', 'out']
    """
    parameters = []
    for text in SIGNATURES[kernel].split(", "):
        dtype, _, rest = text.partition(" ")
        name, bracket, shape = rest.rstrip("]").partition("[")
        parameters.append(Parameter(name, np.dtype(dtype), tuple(shape.split(",")) if bracket else None))
    return tuple(parameters)


def module_of(kernel: str) -> str:
    """The compiled text that holds ``kernel``."""
    return "mask" if kernel == "mask_1d" else "search"


def source(module: str) -> str:
    """The text that is compiled: its files one after the other, never ``#include``, which caches do not look into."""
    return "\n".join(kernel_source(name) for name in MODULES[module])


@dataclass(frozen=True)
class Launcher:
    """Kernels of one N:M on one device: ``launch("group_values", grid, threads, *arguments)``, or ``ready`` and later.

    Raises ``ValueError`` for an array on another device, of another dtype or shape or not
    C-contiguous, for numbers that do not fit their type, and for grids that no device takes.
    """

    device: Device
    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m <= MAX_GROUP:
            raise ValueError(
                f"the CUDA kernels take groups of up to {MAX_GROUP} channels, got {self.n}:{self.m}; "
                "backend='cpu' takes any"
            )

    def __call__(self, kernel: str, grid: tuple[int, ...], threads: int, *arguments: Any) -> None:
        """Check, then launch; empty grids are no work."""
        if 0 not in grid:
            self.device.run([self.ready(kernel, grid, threads, *arguments)])

    def ready(self, kernel: str, grid: tuple[int, ...], threads: int, *arguments: Any) -> Launch:
        """Check; what comes back is for ``Device.run``, as often as one likes."""
        full = (*grid, 1, 1)[:3]
        if full[0] >= 2**31 or max(full[1:]) > 65_535 or threads % 32 or not 0 < threads <= 1024:
            raise ValueError(f"kernel {kernel}: no device takes a grid of {full} blocks of {threads} threads")
        checked = self._checked(kernel, arguments)
        return self.device.kernel(
            module_of(kernel), kernel, self.n, self.m, (full[0], full[1], full[2]), threads, checked
        )

    def _checked(self, kernel: str, arguments: Sequence[Any]) -> list[Any]:
        parameters = signature(kernel)
        if len(arguments) != len(parameters):
            raise ValueError(f"kernel {kernel} takes {len(parameters)} arguments, got {len(arguments)}")
        sizes = {"M": self.m}
        checked = []
        for parameter, argument in zip(parameters, arguments):
            what = f"kernel {kernel}: {parameter.name}"
            if parameter.shape is None:
                checked.append(_number(parameter, argument, what))
                if parameter.dtype.kind == "i":
                    _agree(sizes, parameter.name, int(argument), what)
                continue
            if not self.device.owns(argument):
                raise ValueError(f"{what} is not on the device it runs on, but a {type(argument).__name__}")
            if argument.dtype != parameter.dtype or not argument.flags.c_contiguous:
                order = "" if argument.flags.c_contiguous else ", not C-contiguous"
                raise ValueError(f"{what} must be C-contiguous {parameter.dtype}, got {argument.dtype}{order}")
            if len(argument.shape) != len(parameter.shape):
                raise ValueError(f"{what} must be [{', '.join(parameter.shape)}], got shape {argument.shape}")
            for name, size in zip(parameter.shape, argument.shape):
                _agree(sizes, name, size, what)
            checked.append(argument)
        return checked


def _number(parameter: Parameter, value: Any, what: str) -> Any:
    if parameter.dtype.kind == "i":
        limits = np.iinfo(parameter.dtype)
        if int(value) != value or not limits.min <= value <= limits.max:
            raise ValueError(f"{what} must be an {parameter.dtype}, got {value!r}")
    return parameter.dtype.type(value)


def _agree(sizes: dict[str, int], name: str, size: int, what: str) -> None:
    if name.isdigit() and size != int(name):
        raise ValueError(f"{what} must be {name} long where it is {size}")
    if sizes.setdefault(name, size) != size:
        raise ValueError(f"{what}: {name} is {size} here, and {sizes[name]} in an argument before")
