"""What the kernel of a convolution sees at each of its positions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE = 2**24
"""How many numbers are unfolded at a time: 64 MiB in float32."""


@dataclass(frozen=True)
class Windows:
    """How the windows of a convolution lie on its input, one entry for each spatial dimension.

    A transposed convolution is one too: over its input with ``stuffing - 1`` zeros between
    neighbours, by the ``flipped`` kernel. ``padding`` is as ``F.pad`` takes it, last dimension
    first.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    mode: str = "constant"
    stuffing: tuple[int, ...] = ()
    flipped: bool = False

    @classmethod
    def of(cls, module: nn.Module, inputs: Tensor, output_size: Sequence[int] | None) -> Self:
        """The windows of the convolution ``module`` on ``inputs``, which it was called with."""
        conv = cast("Any", module)
        kernel, stride, dilation = tuple(conv.kernel_size), tuple(conv.stride), tuple(conv.dilation)
        if not conv.transposed:
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            return cls(kernel, stride, dilation, tuple(conv._reversed_padding_repeated_twice), mode)
        extra = conv._output_padding(inputs, output_size, stride, conv.padding, kernel, len(kernel), dilation)
        padding: list[int] = []
        for size, gap, own, more in reversed(list(zip(kernel, dilation, conv.padding, extra, strict=True))):
            around = gap * (size - 1) - own
            padding += [around, around + more]
        return cls(kernel, (1,) * len(kernel), dilation, tuple(padding), stuffing=stride, flipped=True)

    def pieces(self, inputs: Tensor, counted: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Pieces ``(windows, channels, kernel positions)`` of what is seen, and which count.

        ``inputs`` ``(samples, *positions, channels)``, ``counted`` bools ``(samples, *positions)``.
        A window counts where the position under its middle does. Pieces have at most ``PIECE``
        numbers.
        """
        samples = max(1, PIECE // max(1, self._padded(inputs)))
        middles = None if counted is None else self._middles(counted)
        for start in range(0, len(inputs), samples):
            part = slice(start, start + samples)
            seen = self._on(inputs[part])
            for piece, those in _cut(
                seen, None if middles is None else middles[part], seen.ndim - len(self.kernel) - 1
            ):
                windows = piece.flatten(0, -len(self.kernel) - 2)
                if self.flipped:
                    windows = windows.flip(list(range(2, windows.ndim)))
                yield windows.flatten(2), None if those is None else those.flatten()

    def _on(self, inputs: Tensor) -> Tensor:
        """The view ``(samples, *windows, channels, *kernel)`` of the inputs, padded."""
        inputs = inputs.movedim(-1, 1)
        if any(step > 1 for step in self.stuffing):
            sizes = [(size - 1) * step + 1 for size, step in zip(inputs.shape[2:], self.stuffing, strict=True)]
            stuffed = inputs.new_zeros((*inputs.shape[:2], *sizes))
            every = tuple(slice(None, None, step) for step in self.stuffing)
            stuffed[(slice(None), slice(None), *every)] = inputs
            inputs = stuffed
        if any(self.padding):
            inputs = F.pad(inputs, self.padding, mode=self.mode)
        for dim, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True), start=2):
            inputs = inputs.unfold(dim, gap * (size - 1) + 1, step)[..., ::gap]
        return inputs.movedim(1, 1 + len(self.kernel))

    def _padded(self, inputs: Tensor) -> int:
        """How many numbers one sample has once it is stuffed and padded."""
        sizes = inputs.shape[1:-1]
        around = [sum(pair) for pair in zip(self.padding[::2], self.padding[1::2], strict=True)][::-1]
        stuffing = self.stuffing or (1,) * len(sizes)
        return inputs.shape[-1] * math.prod(
            size * step + more for size, step, more in zip(sizes, stuffing, around, strict=True)
        )

    def _middles(self, counted: Tensor) -> Tensor:
        """``counted`` at the position under the middle of every window, ``(samples, *windows)``."""
        before = self.padding[::2][::-1]
        after = self.padding[1::2][::-1]
        for dim, size in enumerate(self.kernel, start=1):
            own = dim - 1
            length, stuffing = counted.shape[dim], (self.stuffing or (1,) * len(self.kernel))[own]
            reach = self.dilation[own] * (size - 1)
            padded = (length - 1) * stuffing + 1 + before[own] + after[own]
            starts = torch.arange(0, padded - reach, self.stride[own], device=counted.device)
            middle = (starts + reach // 2 - before[own]).div(stuffing, rounding_mode="floor").clamp(0, length - 1)
            counted = counted.index_select(dim, middle)
        return counted


def _cut(windows: Tensor, counted: Tensor | None, leading: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """``windows``, and which count, halved along ``leading`` dims until they fit ``PIECE``."""
    dim = next((dim for dim in range(leading) if windows.shape[dim] > 1), None)
    if windows.numel() <= PIECE or dim is None:
        yield windows, counted
        return
    halves = (None, None) if counted is None else counted.chunk(2, dim)
    for half, those in zip(windows.chunk(2, dim), halves, strict=True):
        yield from _cut(half, those, leading)
