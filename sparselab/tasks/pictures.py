"""A folder of labelled ImageNet pictures: enough for a real top-1, too few for a paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparselab.core.folders import data_dir
from sparselab.core.models import as_module, device_of
from sparselab.metrics import Top1, measure
from sparselab.tasks.efficientnet_lite import PICTURE_SIZE, scale_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 50
"""Pictures that are scaled at a time."""

_NAME = re.compile(r"(\d{1,3})_n\d{8}\.jpe?g", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Pictures ``(n, 3, 224, 224)`` uint8 and their ImageNet classes ``(n,)`` int64, in the order of file names."""

    pixels: Tensor
    labels: Tensor

    @staticmethod
    def folder() -> Path:
        """Where pictures are looked for: ``imagenet-sample`` in the data folder."""
        return data_dir() / "imagenet-sample"

    @classmethod
    def load(cls, folder: str | Path | None = None, *, progress: bool = False) -> LabelledPictures:
        """Read every ``<class index>_<wordnet id>.jpg`` of ``folder``, shorter side to 256, centre 224 x 224.

        Raises ``FileNotFoundError`` saying what was looked for when there is none.
        """
        from PIL import Image

        folder = cls.folder() if folder is None else Path(folder)
        files = sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name)) if folder.is_dir() else []
        if not files:
            raise FileNotFoundError(
                f"no labelled pictures: looked in {folder} for files like 281_n02123045.jpg "
                "(class index, WordNet id). Point SPARSELAB_DATA at a folder that holds imagenet-sample/"
            )
        pixels = []
        for file in tqdm(files, "pictures", disable=not progress, leave=False):
            with Image.open(file) as image:
                pixels.append(_centre_square(image.convert("RGB")))
        labels = [int(file.name.split("_")[0]) for file in files]
        return cls(torch.stack(pixels), torch.tensor(labels))

    def batches(self, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """``(inputs, labels)`` batches, scaled for the network one at a time."""
        for pixels, labels in zip(torch.split(self.pixels, size), torch.split(self.labels, size)):
            yield scale_pixels(pixels), labels

    def __getitem__(self, index: slice | Tensor) -> LabelledPictures:
        return LabelledPictures(self.pixels[index], self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


def _centre_square(image: Image) -> Tensor:
    shorter = min(image.size)
    if shorter != 256:
        width, height = (max(256, round(side * 256 / shorter)) for side in image.size)
        image = image.resize((width, height))
    left, top = ((side - PICTURE_SIZE) // 2 for side in image.size)
    cropped = image.crop((left, top, left + PICTURE_SIZE, top + PICTURE_SIZE))
    return torch.from_numpy(np.asarray(cropped).copy()).permute(2, 0, 1)


def top1(model: nn.Module, pictures: LabelledPictures, *, progress: bool = False) -> float:
    """Percent of pictures whose highest logit is their label. The model should be in evaluation mode."""
    device = device_of(as_module(model, "top1"))
    bar = tqdm(pictures.batches(), desc="top-1", total=-(-len(pictures) // BATCH), disable=not progress, leave=False)
    batches = (((inputs.to(device), labels.to(device)), len(labels)) for inputs, labels in bar)
    (percent,) = measure([Top1()], model, batches).values()
    return percent
