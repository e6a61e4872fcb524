"""Handwritten digits, 8 x 8: embedded in scikit-learn, seconds to train."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sparselab.tasks.images import Images
from sparselab.tasks.task import Recipe, Task


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@dataclass(frozen=True)
class Digits:
    """1,797 digits (UCI, through scikit-learn), every fourth for evaluation; a CNN of 29 k parameters."""

    epochs: float = 6.0

    def __call__(self) -> Task:
        """The task. Raises ``ModuleNotFoundError`` saying what to install when scikit-learn is missing."""
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError:
            raise ModuleNotFoundError('scikit-learn is missing: pip install "sparselab[zoo]"') from None
        loaded = load_digits()
        pixels = torch.from_numpy(loaded.images * 255 / 16).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(loaded.target).long()
        held_out = torch.arange(len(labels)) % 4 == 3
        train, held = ~held_out, held_out
        return Task(
            name="digits",
            model=_network,
            train_data=Images(pixels[train], labels[train], 0.305, 0.376),
            eval_data=Images(pixels[held], labels[held], 0.305, 0.376),
            example_inputs=torch.zeros(2, 1, 8, 8),
            recipe=Recipe("sgd,0.1", epochs=self.epochs, batch_size=64, warmup=0.1),
            finetuning=Recipe("sgd,0.02", epochs=self.epochs / 2, batch_size=64),
        )
