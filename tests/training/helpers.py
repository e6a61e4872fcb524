"""Small networks and an oracle for the tests of training with masks."""

from __future__ import annotations

import torch
from torch import nn


def network(seed: int = 0) -> nn.Sequential:
    """A convolutional network: its second convolution and its Linear fit 2:4, the first convolution does not."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 8),
    )
    randomise(model)
    return model


def randomise(model: nn.Module) -> None:
    """Fresh norms are ones and zeros: give every tensor values that would show if they were forgotten."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.3)


def mlp(seed: int = 0) -> nn.Sequential:
    """Two Linears that fit every rule."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8))


def most_in_a_group(weight: torch.Tensor, m: int = 4) -> int:
    """The most non-zeros in any group of ``m`` input channels of a (K, C, ...) weight."""
    groups = torch.stack([chunk.ne(0).sum(1) for chunk in weight.detach().split(m, dim=1)])
    return int(groups.max())


def density(weight: torch.Tensor) -> float:
    """The share of non-zeros."""
    return float((weight != 0).double().mean())
