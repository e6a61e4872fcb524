"""A saliency matrix resident on a GPU, and the primitives on it: launches, in pieces, and what they return.

Nothing here depends on how much memory or how many processors a device has but the number of pieces, and a piece's
results do not depend on the others: the same values on every GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparselab.ops.cuda.kernels import Device, Launch, Launcher, too_large
from sparselab.ops.cuda.swaps import CudaSwaps
from sparselab.ops.matrix import Doubles, Floats, Ints, power_of_two, resident

_TILE = (64, 128)  # slots and channels of a block of product.cu
_SLICE = 512  # rows that a block of sum_of_maxima adds in float32: their sum is good to some 1e-6
_WORDS = (16, 128)  # words of four rows that a block of sum_of_differences adds, at least and at most
_ENOUGH_BLOCKS = 264  # for the largest GPUs there are, two per processor
_SLICES = 65_535  # blocks along z, at most
_SET = 32  # channels of a set that partitions.cu takes


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _tiles(chains: int, groups: int, words: int) -> tuple[int, tuple[int, int, int]]:
    """Words per slice of sum_of_differences, and its grid: shorter slices where there would be too few blocks."""
    across, down = _blocks(groups, _TILE[1]), _blocks(groups, _TILE[0])
    least, slice_ = _WORDS
    while slice_ > least and across * down * chains * _blocks(words, slice_) < _ENOUGH_BLOCKS:
        slice_ //= 2
    return slice_, (across, down, chains * _blocks(words, slice_))


def _padded(groups: int) -> int:
    """How far apart lines of ``sums`` are: what the warps of deal_back read of one."""
    return _blocks(groups, 256) * 256 if groups > 128 else 128


class CudaMatrix:
    """The primitives of ``sparselab.ops.matrix.LoadedMatrix`` on a ``Device``. One thread at a time.

    Holds 4 bytes per score on the device, and 1 more once something anneals; what else a call needs
    is cut into pieces that fit into half of what is free. Moves are the CPU's: the same bytes, the
    same random numbers, the same matching.
    """

    overhead = 0.0  # or ``auto`` would make other moves than on the CPU, and find other orders
    side_by_side = 32  # their products fill the machine, while each one's matching is a block's

    def __init__(self, values: Floats, n: int, m: int, device: Device) -> None:
        if (reason := too_large(len(values), m)) is not None:
            raise ValueError(f"{reason}: backend='cpu' takes any")
        self._launch, self._device = Launcher(device, n, m), device
        self.scale = power_of_two(values)
        self.channels, self.rows = values.shape
        self.n, self.m = n, m
        self._values = device.upload(resident(values, self.scale))

    def retained(self, order: Ints) -> float:
        """See ``LoadedMatrix``."""
        return float(self.group_table(order.reshape(-1, self.m)).sum())

    def channel_sums(self) -> Doubles:
        """See ``LoadedMatrix``."""
        sums = self._device.empty((self.channels,), np.float64)
        self._launch("channel_sums", (self.channels,), 128, self._values, self.rows, sums)
        return self._device.download(sums)

    def group_table(self, groups: Ints) -> Doubles:
        """See ``LoadedMatrix``."""
        return self._device.download(self._group_values(groups))

    def _group_values(self, groups: Ints) -> Any:
        out = self._device.empty((len(groups),), np.float64)
        self._launch("group_values", (len(groups),), 128, self._values, self.rows, self.indices(groups), out)
        return out

    def completions(self, prefixes: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        groups = np.zeros((len(prefixes), self.m), np.int64)  # a last member, for the kernel to leave out
        groups[:, :-1] = prefixes
        return self._complete(groups, np.full(len(prefixes), self.m - 1), np.arange(self.channels))

    def table(self, order: Ints, slots: Ints, channels: Ints) -> Floats:
        """See ``LoadedMatrix``."""
        return self._complete(order.reshape(-1, self.m)[slots // self.m], slots % self.m, channels)

    def _complete(self, groups: Ints, skipped: Ints, channels: Ints) -> Floats:
        """What each of ``groups``, without its member ``skipped``, retains with each of ``channels``."""
        out = np.empty((len(groups), len(channels)), np.float32)
        columns, (_, slices) = self.indices(channels), self._slices
        for part in self._pieces(len(groups), 8 + 4 * self.rows + 4 * (slices + 1) * len(channels)):
            out[part] = self._device.download(self._product(groups[part], skipped[part], columns))
        return out

    def _product(self, groups: Ints, skipped: Ints, columns: Any) -> Any:
        """``_complete`` in one piece, on the device."""
        count, width, (slice_, slices) = len(groups), len(columns), self._slices
        bounds = self._device.empty((count, self.rows), np.float32)
        base = self._device.empty((count,), np.float64)
        partial = self._device.empty((slices, count, width), np.float32)
        table = self._device.empty((count, width), np.float32)
        members, left_out = self.indices(groups), self.indices(skipped)
        self._launch("boundaries", (count,), 128, self._values, self.rows, members, left_out, bounds, base)
        tiles = (_blocks(width, _TILE[1]), _blocks(count, _TILE[0]), slices)
        self._launch(
            "sum_of_maxima", tiles, 256, bounds, count, self._values, columns, width, self.rows, slice_, partial
        )
        self._launch("add_slices", (_blocks(count * width, 1024),), 256, partial, slices, base, count, width, table)
        return table

    @property
    def _slices(self) -> tuple[int, int]:
        """Rows per slice of the product, and how many slices: by the shape alone, so that sums are too."""
        rows = max(_SLICE, _blocks(self.rows, _SLICES))
        return rows, _blocks(self.rows, rows)

    def swaps(self, order: Ints, slots: Ints) -> CudaSwaps:
        """See ``LoadedMatrix``: the table stays on the device."""
        return CudaSwaps(self, order, slots)

    def table_on_device(self, order: Ints, slots: Ints, channels: Ints) -> Any:
        """``LoadedMatrix.table``, left on the device."""
        table = self._device.empty((len(slots), len(channels)), np.float32)
        self.refresh_rows(table, np.arange(len(slots)), order, slots, channels)
        return table

    def refresh_rows(self, table: Any, places: Ints, order: Ints, slots: Ints, channels: Ints) -> None:
        """``table[places] = table(order, slots, channels)`` on the device."""
        columns, groups = self.indices(channels), order.reshape(-1, self.m)[slots // self.m]
        for part in self._pieces(len(slots), 8 + 4 * self.rows + 4 * (self._slices[1] + 1) * len(channels)):
            rows = self._product(groups[part], slots[part] % self.m, columns)
            count, width = rows.shape
            grid = (_blocks(count * width, 1024),)
            self._launch("put_rows", grid, 256, rows, self.indices(places[part]), count, width, table)

    def best_swaps(self, table: Any, column: Any, values: Any, free: NDArray[np.bool_]) -> tuple[Floats, Ints]:
        """For each group, its best swap with a group that is also free.

        Returns what each swap gains, and its two places as one number.
        """
        groups, slots = len(free), table.shape[0]
        gain, pair = self._device.empty((groups,), np.float32), self._device.empty((groups,), np.int64)
        mask = self.upload(free.view(np.uint8))
        self._launch("best_swaps", (groups,), 128, table, column, values, mask, slots, gain, pair)
        return self._device.download(gain), self._device.download(pair)

    def best_partitions(self, order: Ints, sets: Ints, subsets: Ints, parts: Ints) -> tuple[Doubles, Ints]:
        """See ``LoadedMatrix``. Raises ``ValueError`` for sets of more than 32 channels."""
        members, size = sets.shape[1], sets.shape[1] * self.m
        if size > _SET:
            raise ValueError(f"the CUDA kernels partition up to {_SET} channels, got {size}: backend='cpu' takes any")
        gains, dealt = np.empty(len(sets)), np.empty((len(sets), size), np.int64)
        value = self._group_values(order.reshape(-1, self.m))
        index, groups, ways = self.indices(order), self.indices(subsets), self.indices(parts.T)
        for part in self._pieces(len(sets), 8 * len(subsets) + 8 * size + 16):
            count = len(sets[part])
            chosen, best = (self._device.empty((count, size), np.int32) for _ in range(2))
            worth = self._device.empty((count, len(subsets)), np.float64)
            gain = self._device.empty((count,), np.float64)
            here = self.indices(sets[part])
            self._launch(
                "subset_values", (count,), 256,
                self._values, self.rows, index, here, members, groups, len(subsets), chosen, worth,
            )  # fmt: skip
            self._launch(
                "best_partitions", (count,), 128,
                here, members, groups, len(subsets), ways, len(parts), chosen, worth, value, gain, best,
            )  # fmt: skip
            gains[part], dealt[part] = self._device.download(gain), self._device.download(best)
        return gains, dealt

    @cached_property
    def _bytes(self) -> tuple[Any, float]:
        """The scores as words of four bytes, on the device, and how many differences one unit of ``retained`` is."""
        from sparselab.ops.cpu.differences import quantised

        scores, levels = quantised(self._device.download(self._values))
        return self._device.upload(scores.view(np.uint32)), 2.0 * levels

    def anneal(self, orders: Ints, steps: int, hot: float, cold: float, seeds: Ints) -> Ints:
        """See ``LoadedMatrix``: one block per chain."""
        scores, unit = self._bytes
        words, groups = scores.shape[1], self.channels // self.m
        if steps < 1 or groups < 2:
            return orders.copy()
        hot, cold = hot * unit, cold * unit
        cooling = (cold / hot) ** (64 / steps) if hot > 0 else 1.0
        threads = min(256, 32 * _blocks(words, 32))
        out = np.empty_like(orders)
        for part in self._pieces(len(orders), self.channels * (4 * words + 12)):
            chains = len(orders[part])
            bounds = self._device.empty((chains, self.channels, words), np.uint32)
            own, best = (self._device.empty((chains, self.channels), np.int32) for _ in range(2))
            self._launch(
                "anneal_swaps", (chains,), threads,
                scores, words, self.channels, self._seeds(seeds[part]), steps, hot, cooling,
                bounds, own, self.indices(orders[part]), best,
            )  # fmt: skip
            out[part] = self._device.download(best)
        return out

    def assign(self, orders: Ints, noise: Doubles, seeds: Ints) -> Ints:
        """See ``LoadedMatrix``."""
        scores, unit = self._bytes
        groups, out = self.channels // self.m, np.empty_like(orders)
        most = max(1, _SLICES // _blocks(scores.shape[1], _WORDS[0]))  # chains that one grid takes
        for part in self._pieces(len(orders), 4 * groups * (scores.shape[1] + _padded(groups) + self.m + 4), most):
            out[part] = self._assign(scores, orders[part], noise * unit, seeds[part])
        return out

    def _assign(self, scores: Any, orders: Ints, noise: Doubles, seeds: Ints) -> Ints:
        """All moves are launched ahead: only the orders come back, at the end."""
        state, move = self._move(scores, orders, noise, seeds)
        self._device.run(move, len(noise))
        return self._device.download(state).astype(np.int64)

    def _move(self, scores: Any, orders: Ints, noise: Doubles, seeds: Ints) -> tuple[Any, list[Launch]]:
        """``orders`` on the device, and the launches that make the next move of all chains there.

        There are as many launches as entries of ``noise``, at most.
        """
        chains, groups, words = len(orders), self.channels // self.m, scores.shape[1]
        slots, index = (self._device.empty((chains, groups), np.int32) for _ in range(2))
        bounds = self._device.empty((chains, groups, words), np.uint32)
        width = _padded(groups)
        sums = self._device.empty((chains, groups, width), np.int32)
        scratch = self._device.empty((chains, 2, groups), np.int32)
        made, heat = self.upload(np.zeros(chains, np.int64)), self.upload(noise)  # chains count moves for themselves
        state, seed = self.indices(orders), self._seeds(seeds)
        slice_, tiles = _tiles(chains, groups, words)
        slices = tiles[2] // chains
        ready = self._launch.ready
        return state, [
            ready(
                "open_slots", (groups, chains), 128, scores, words, state, seed, made, slots, index, bounds, width, sums
            ),
            ready("sum_of_differences", tiles, 256, bounds, scores, index, groups, words, slice_, slices, width, sums),
            ready("deal_back", (chains,), 512, sums, groups, width, seed, heat, made, slots, index, scratch, state),
        ]

    def indices(self, array: Ints) -> Any:
        """Slots, channels or groups on the device, where they are int32."""
        return self.upload(np.ascontiguousarray(array, np.int32))

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy on the device."""
        return self._device.upload(array)

    def _seeds(self, seeds: Ints) -> Any:
        return self._device.upload(np.ascontiguousarray(seeds, np.int64).view(np.uint64))

    def _pieces(self, count: int, bytes_each: int, most: int = 2**31) -> Iterator[slice]:
        """``count`` things in pieces that fit into half of the free memory; one per piece where not even one does."""
        size = min(most, max(1, self._device.room() // 2 // bytes_each))
        return (slice(start, min(start + size, count)) for start in range(0, count, size))
