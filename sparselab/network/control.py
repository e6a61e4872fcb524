"""The control of every permutation experiment: a random order of everything that may move."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from sparselab.core.models import as_eager, unwrap
from sparselab.network.examples import examples_of
from sparselab.network.free_axes import free_axes
from sparselab.network.outputs import Outputs
from sparselab.network.plan import Plan
from sparselab.network.reach import Reach


def random_plan(
    model: nn.Module,
    example_inputs: Any,
    seed: int = 0,
    *,
    outputs: Outputs | None = None,
    unreached: str = "refuse",
) -> Plan:
    """A plan that puts every free axis of ``model`` in a random order; the function stays the same.

    A gain by permuting means something only in comparison with this. The model is not changed;
    ``plan.apply(model)`` does that. The same ``seed`` gives the same plan. ``example_inputs``,
    ``outputs`` and ``unreached`` are as in ``permute``. Raises ``UntraceableError`` (a
    ``RuntimeError``) for models that cannot be traced, and ``UnreachedError`` (another) for those
    with parameters that no example reaches.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> len(random_plan(model, torch.randn(2, 8)))  # the hidden axis: two weights and a bias
    3
    """
    inner = unwrap(as_eager(model, "random_plan"))
    analysis = Reach.of(outputs, unreached).analyse(inner, examples_of(example_inputs, inner))
    rng = np.random.default_rng(seed)
    orders = {
        axis: np.stack([rng.permutation(axis.size) for _ in range(axis.contexts)]) for axis in free_axes(analysis)
    }
    return Plan.from_orders(analysis, orders)
