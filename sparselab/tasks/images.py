"""Images kept as bytes and scaled a batch at a time, and what is done to them in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Images:
    """``pixels`` ``(n, c, h, w)`` uint8 with ``labels`` ``(n,)`` int64.

    Batches are float32 ``(pixels / 255 - mean) / deviation``.
    """

    pixels: Tensor
    labels: Tensor
    mean: float
    deviation: float

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        scaled = (self.pixels[indices].float() / 255 - self.mean) / self.deviation
        return scaled, self.labels[indices]

    def first(self, count: int | None) -> Images:
        """The first ``count`` of them (``None``: all)."""
        return Images(self.pixels[:count], self.labels[:count], self.mean, self.deviation)


@dataclass(frozen=True)
class ShiftAndFlip:
    """Move each image by up to ``shift`` pixels in both directions; half of them are mirrored where ``flip``."""

    shift: int = 2
    flip: bool = True

    def __call__(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images of the same shape; labels stay."""
        images, labels = batch
        count, _, height, width = images.shape
        padded = pad(images, (self.shift,) * 4)
        offsets = torch.randint(2 * self.shift + 1, (2, count, 1), generator=generator)
        rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        every = torch.arange(count)[:, None, None]
        moved = padded[every, :, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2).contiguous(), labels
