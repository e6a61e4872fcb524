"""CIFAR-10: 32 x 32 colour pictures in ten classes, from Parquet files as the data set's hub has them."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparselab.core.folders import data_dir
from sparselab.core.registry import unknown_name
from sparselab.tasks.images import Images, ShiftAndFlip
from sparselab.tasks.networks import NETWORKS
from sparselab.tasks.task import Recipe, Task


@dataclass(frozen=True)
class Cifar10:
    """50,000 pictures to train on, 10,000 to evaluate.

    ``examples`` and ``held_out`` take only the first of the pictures to train on and to evaluate. ``folder`` holds
    ``train.parquet`` and ``test.parquet`` with the columns ``img.bytes`` (or ``img`` with ``bytes``) and ``label``; by
    default ``cifar10`` in the data folder (``$SPARSELAB_DATA``).
    """

    network: str = "residual"
    epochs: float = 5.0
    examples: int | None = None
    held_out: int | None = None
    folder: str | None = None

    def __call__(self) -> Task:
        """The task.

        Raises ``FileNotFoundError`` saying what was looked for, and ``ValueError`` for an unknown
        network.
        """
        if self.network not in NETWORKS:
            raise unknown_name("network of task 'cifar10'", self.network, NETWORKS)
        folder = data_dir() / "cifar10" if self.folder is None else Path(self.folder).expanduser()
        return Task(
            name=f"cifar10_{self.network}",
            model=functools.partial(NETWORKS[self.network], 3, 10),
            train_data=read_parquet(folder / "train.parquet", self.examples),
            eval_data=read_parquet(folder / "test.parquet", self.held_out),
            example_inputs=torch.zeros(2, 3, 32, 32),
            recipe=Recipe("sgd,0.1", epochs=self.epochs, batch_size=128, warmup=0.1),
            finetuning=Recipe("sgd,0.02", epochs=self.epochs, batch_size=128),
            augment=ShiftAndFlip(2),
        )


def read_parquet(file: Path, count: int | None = None) -> Images:
    """The first ``count`` pictures of a Parquet file (``None``: all)."""
    if not file.is_file():
        raise FileNotFoundError(
            f"no CIFAR-10: looked for {file} (columns img.bytes, label). Point SPARSELAB_DATA at a folder that holds "
            "cifar10/train.parquet and cifar10/test.parquet"
        )
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(file).flatten()
    encoded = table["img.bytes"].to_pylist()[:count]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in encoded])
    labels = torch.tensor(table["label"].to_pylist()[:count])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, 0.473, 0.252)
