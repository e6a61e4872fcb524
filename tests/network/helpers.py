"""What the tests of networks share: random weights everywhere, random orders on every free axis."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from sparselab.network.analysis import analyse
from sparselab.network.free_axes import free_axes
from sparselab.network.plan import Plan
from sparselab.network.tracing import as_call, tensors_in


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and floating-point buffer random: a fresh norm of ones and zeros would hide a forgotten move."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            fan = max(1, parameter[0].numel() if parameter.ndim > 1 else 1)
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan**0.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and name in model.state_dict():
                noise = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
                buffer.copy_(noise + 0.5 if "var" in name else noise - 0.5)
    return model


def outputs_of(model: nn.Module, inputs) -> list[torch.Tensor]:
    args, kwargs = as_call(inputs)
    with torch.no_grad():
        return [tensor.clone() for tensor in tensors_in(model(*args, **kwargs))]


def as_double(inputs):
    return torch.utils._pytree.tree_map(
        lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, inputs
    )


def relative_error(before, after) -> float:
    return max(
        (
            float((b.double() - a.double()).abs().max() / b.double().abs().max().clamp_min(1e-300))
            for b, a in zip(before, after, strict=True)
            if b.numel()
        ),
        default=0.0,
    )


def random_orders(axes, seed: int = 0):
    rng = np.random.default_rng(seed)
    return {axis: np.stack([rng.permutation(axis.size) for _ in range(axis.contexts)]) for axis in axes}


def shuffled(model: nn.Module, inputs, seed: int = 0):
    """The model randomised, in float64, moved by random orders of every free axis.

    Returns the plan, the axes and the relative error of the outputs.
    """
    return next(shuffles(model, inputs, [seed]))


def shuffles(model: nn.Module, inputs, seeds: Iterable[int]):
    """``shuffled`` for each seed, of a model that is traced only once: axes do not depend on values."""
    model, inputs = copy.deepcopy(model).double().eval(), as_double(inputs)
    analysis = analyse(model, inputs)
    axes = free_axes(analysis)
    for seed in seeds:
        before = outputs_of(randomised(model, seed), inputs)
        plan = Plan.from_orders(analysis, random_orders(axes, seed))
        plan.apply(model)
        yield plan, axes, relative_error(before, outputs_of(model, inputs))
        plan.inverse().apply(model)


def moved_dims(plan: Plan) -> set[tuple[str, int]]:
    return {(name, dim) for move in plan.moves for name in move.names for dim in range(move.first, move.last + 1)}
