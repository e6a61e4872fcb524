"""A training step with masks beside one without, and beside ASP's way of keeping them.

The residual CNN of the task fashion_mnist at batch 64, on random pictures, so that no data are needed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import MethodType

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

import sparselab as sl
from sparselab.tasks.networks import residual

TARGET = 5.0
"""Percent that masks may add to a step."""


def asps_way(optimizer: torch.optim.Optimizer, masked: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
    """Replace ``optimizer.step``: a Python loop multiplies gradients before it, and one multiplies weights after it."""
    original = optimizer.step

    def step(self: torch.optim.Optimizer, *args: object, **kwargs: object) -> object:
        with torch.no_grad():
            for parameter, mask in masked:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
        result = original(*args, **kwargs)
        with torch.no_grad():
            for parameter, mask in masked:
                parameter.mul_(mask)
        return result

    optimizer.step = MethodType(step, optimizer)


def trainer(kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A whole training step, and the optimizer's part of it alone."""
    torch.manual_seed(0)
    model = residual()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    inputs, labels = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    if kind == "masked":
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(optimizer)
        sparsifier.compute()
    elif kind == "asp":
        weights = [model.get_parameter(name) for name in sl.Sparsifier(residual(), "2:4").masks]
        asps_way(optimizer, [(weight, sl.create_mask(weight.detach(), "2:4")) for weight in weights])

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    step()
    return step, optimizer.step


def run(rounds: int = 60) -> pd.DataFrame:
    """Rows: a whole step and the optimizer's part; milliseconds of CPU time, overheads in percent of a whole dense step.

    Each round runs every kind once, in turn, on one thread and by its CPU time, so that other work on the machine counts
    little; ``noise_percent`` is what two dense networks differ by in the same way.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measured(rounds)
    finally:
        torch.set_num_threads(threads)


def measured(rounds: int) -> pd.DataFrame:
    kinds = ("dense", "masked", "asp", "again")
    trainers = {kind: trainer("dense" if kind == "again" else kind) for kind in kinds}
    rows = []
    whole = None
    for index, part in enumerate(("whole step", "optimizer only")):
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds if index == 0 else 10 * rounds):
            for kind in kinds:
                start = time.process_time()
                trainers[kind][index]()
                times[kind].append(time.process_time() - start)
        median = {kind: 1e3 * statistics.median(values) for kind, values in times.items()}
        more = {kind: 1e3 * statistics.median(a - b for a, b in zip(times[kind], times["dense"])) for kind in kinds}
        whole = whole or median["dense"]
        rows.append(
            {
                "part": part,
                "dense_ms": median["dense"],
                "masked_ms": median["masked"],
                "asp_ms": median["asp"],
                "overhead_percent": 100 * more["masked"] / whole,
                "asp_overhead_percent": 100 * more["asp"] / whole,
                "noise_percent": 100 * more["again"] / whole,
                "target_percent": TARGET,
            }
        )
    return pd.DataFrame(rows)
