"""Fashion-MNIST: 28 x 28 grey pictures of clothes (Xiao et al. 2017, MIT licence), and three small CNNs."""

from __future__ import annotations

import functools
import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparselab.core.folders import data_dir
from sparselab.core.registry import unknown_name
from sparselab.tasks.images import Images
from sparselab.tasks.networks import NETWORKS
from sparselab.tasks.task import Recipe, Task

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


@dataclass(frozen=True)
class FashionMnist:
    """60,000 pictures to train on, 10,000 to evaluate, ten classes.

    ``network`` is ``"residual"``, ``"plain"`` or ``"depthwise"``. ``examples`` and ``held_out`` take only the first
    of the pictures to train on and to evaluate. ``folder`` holds the four ``.gz`` files; by default it is looked for as
    ``fashion-mnist`` in the data folder (``$SPARSELAB_DATA``), then where Debian's package ``dataset-fashion-mnist``
    puts it.
    """

    network: str = "residual"
    epochs: float = 3.0
    examples: int | None = None
    held_out: int | None = None
    folder: str | None = None

    def __call__(self) -> Task:
        """The task.

        Raises ``FileNotFoundError`` saying what was looked for, and ``ValueError`` for an unknown
        network.
        """
        if self.network not in NETWORKS:
            raise unknown_name("network of task 'fashion_mnist'", self.network, NETWORKS)
        folder = find_folder(self.folder)
        train, evaluation = (
            Images(read_idx(folder / pixels), read_idx(folder / labels), 0.286, 0.353)
            for pixels, labels in (FILES["train"], FILES["test"])
        )
        return Task(
            name=f"fashion_mnist_{self.network}",
            model=functools.partial(NETWORKS[self.network], 1, 10),
            train_data=train.first(self.examples),
            eval_data=evaluation.first(self.held_out),
            example_inputs=torch.zeros(2, 1, 28, 28),
            recipe=Recipe("sgd,0.1", epochs=self.epochs, batch_size=64, warmup=0.1),
            finetuning=Recipe("sgd,0.02", epochs=self.epochs, batch_size=64),
        )


def find_folder(folder: str | Path | None = None) -> Path:
    """The first folder that has all four files; ``FileNotFoundError`` naming folders and files when there is none."""
    candidates = list(_candidates()) if folder is None else [Path(folder).expanduser()]
    names = [name for pair in FILES.values() for name in pair]
    for candidate in candidates:
        if all((candidate / name).is_file() for name in names):
            return candidate
    raise FileNotFoundError(
        f"no Fashion-MNIST: looked in {' and '.join(map(str, candidates))} for {', '.join(names)}. Point SPARSELAB_DATA at a "
        "folder that holds fashion-mnist/, or install Debian's package dataset-fashion-mnist"
    )


def _candidates() -> Iterator[Path]:
    yield data_dir() / "fashion-mnist"
    yield Path("/usr/share/datasets/fashion-mnist")


def read_idx(file: Path) -> Tensor:
    """A gzipped IDX file of bytes: pictures as ``(n, 1, h, w)`` uint8, labels as ``(n,)`` int64.

    Raises ``ValueError`` for anything else.
    """
    with gzip.open(file) as stream:
        content = stream.read()
    if len(content) < 8 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{file} is not an IDX file of bytes")
    dims = content[3]
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
    if values.size != np.prod(shape):
        raise ValueError(f"{file} is cut short: {values.size} bytes for shape {shape}")
    tensor = torch.from_numpy(values.reshape(shape).copy())
    return tensor.long() if dims == 1 else tensor[:, None]
