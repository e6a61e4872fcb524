"""Eight-bit integers, simulated: values are rounded to what int8 can hold, the arithmetic stays in floating point."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.models import evaluating

LARGEST = 127
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def quantise_int8(model: nn.Module, batches: Iterable[Any]) -> None:
    """Round the weights and the inputs of every linear and convolutional layer to int8. In place; for evaluation.

    Symmetric: weights have a scale for each output, inputs one for each layer, which is the largest
    magnitude seen in ``batches`` (what the model takes, or tuples that begin with it) over 127.
    Zero stays zero, so masks survive. Biases and norms are left alone. Raises ``ValueError``
    without batches.
    """
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    largest = _largest_inputs(model, layers, batches)
    round_weights(layer.weight.detach() for layer in layers)
    for layer in layers:
        layer.register_forward_pre_hook(_rounding(largest[layer] / LARGEST))


def round_weights(weights: Iterable[Tensor]) -> None:
    """Round ``weights`` of layers to int8, in place, each with a scale for each output (dimension 0)."""
    for weight in weights:
        scale = weight.abs().flatten(1).amax(1) / LARGEST
        weight.copy_(rounded(weight, scale.reshape(-1, *[1] * (weight.ndim - 1))))


def rounded(values: Tensor, scale: Tensor) -> Tensor:
    """``values`` as the nearest multiples of ``scale`` from -127 to 127 of it; 0 where the scale is 0.

    >>> rounded(torch.tensor([0.0, 0.26, -9.0]), torch.tensor(0.05))
    tensor([ 0.0000,  0.2500, -6.3500])
    """
    steps = torch.where(scale > 0, values / scale.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
    return steps.round().clamp(-LARGEST, LARGEST) * scale


def _largest_inputs(model: nn.Module, layers: list[Any], batches: Iterable[Any]) -> dict[nn.Module, Tensor]:
    largest: dict[nn.Module, Tensor] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = inputs[0].detach().abs().max()
        largest[layer] = torch.maximum(largest.get(layer, seen), seen)

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not largest:
        raise ValueError("no batch to calibrate int8 with: the loader was empty")
    return largest


def _rounding(scale: Tensor) -> Any:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (rounded(inputs[0], scale), *inputs[1:])

    return hook
