"""A model pruned by a pruner that kills its own process: ``python killed.py FOLDER LAYER`` (the name's end)."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import sparselab as sl
from sparselab.pruners import BySaliency


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(4))).eval()


def batches():
    return [torch.randn(16, 8, generator=torch.Generator().manual_seed(number)) for number in range(3)]


@dataclass(frozen=True)
class Stopping(BySaliency):
    """Wanda, until it meets a weight that is ``at``: then what ``how`` says. Looks like plain Wanda."""

    saliency: str = "wanda"

    def __call__(self, weight, calculator, statistic=None, *, channel_dim=1):
        if STOP and STOP[0] == float(weight.sum()):
            STOP[1]()
        return super().__call__(weight, calculator, statistic, channel_dim=channel_dim)


STOP = []


def stop(layer, action):
    """Have ``Stopping`` call ``action`` when it comes to the weight of that name."""
    STOP[:] = [float(network().get_parameter(layer).detach().sum()), action]


def run(model, folder=None, **options):
    return sl.prune(model, batches(), pruner=Stopping(), store=folder, progress=False, **options)


if __name__ == "__main__":
    stop(sys.argv[2], lambda: os.kill(os.getpid(), signal.SIGKILL))
    run(network(), Path(sys.argv[1]))
