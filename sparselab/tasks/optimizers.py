"""Optimizers and learning rates of recipes, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from sparselab.core.registry import Registry, unknown_name


class MakesOptimizer(Protocol):
    """Options of an optimizer; called with parameters it makes one."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer of ``parameters``."""
        ...


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with (Nesterov) momentum."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer of ``parameters``."""
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class Adam:
    """Adam."""

    lr: float = 1e-3
    weight_decay: float = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer of ``parameters``."""
        return torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""

    lr: float = 1e-3
    weight_decay: float = 1e-2

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer of ``parameters``."""
        return torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)


OPTIMIZERS: Registry[MakesOptimizer] = Registry(
    "optimizer",
    {name.lower(): f"sparselab.tasks.optimizers:{name}" for name in ("Sgd", "Adam", "AdamW")},
    group="sparselab.optimizers",
)

LEARNING_RATES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}
"""Factor of the learning rate by the share of the run that is done."""


def learning_rate_factor(name: str, done: float, warmup: float = 0.0) -> float:
    """The factor when ``done`` (0 to 1) of the run is over: a linear rise over ``warmup`` of it, then curve ``name``.

    Raises ``ValueError`` for an unknown name.

    >>> learning_rate_factor("cosine", 0.5), learning_rate_factor("constant", 0.05, warmup=0.1)
    (0.5, 0.5)
    """
    if name not in LEARNING_RATES:
        raise unknown_name("learning rate", name, LEARNING_RATES)
    if done < warmup:
        return done / warmup
    return LEARNING_RATES[name]((done - warmup) / (1 - warmup) if warmup < 1 else 1.0)
