"""Small convolutional networks that train in a minute on two cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def plain(channels: int = 1, classes: int = 10) -> nn.Module:
    """Five 3x3 convolutions one after the other (130 k parameters)."""
    return nn.Sequential(
        _conv(channels, 32, stride=2),
        _conv(32, 32),
        _conv(32, 64, stride=2),
        _conv(64, 64),
        _conv(64, 96, stride=2),
        _head(96, classes),
    )


def depthwise(channels: int = 1, classes: int = 10) -> nn.Module:
    """Depthwise 3x3 and 1x1 convolutions by turns, as in MobileNets (43 k parameters)."""
    layers: list[nn.Module] = [_conv(channels, 32, stride=2)]
    widths = ((32, 64, 1), (64, 96, 2), (96, 128, 1), (128, 128, 2))
    for inputs, outputs, stride in widths:
        layers += [_conv(inputs, inputs, stride=stride, groups=inputs), _conv(inputs, outputs, 1)]
    return nn.Sequential(*layers, _head(128, classes))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def residual(channels: int = 1, classes: int = 10) -> nn.Module:
    """A stem and three residual blocks (152 k parameters)."""
    return nn.Sequential(
        _conv(channels, 32, stride=2), Residual(32, 32), Residual(32, 64, 2), Residual(64, 64), _head(64, classes)
    )


NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "plain": plain,
    "depthwise": depthwise,
    "residual": residual,
}
"""By name; each takes the channels of its input and the number of classes."""
