"""Random networks put together from the zoo's parts: random orders of every free axis change nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparselab.network.permuting import permute

from .helpers import outputs_of, randomised, relative_error, shuffled

PARTS = (
    *("conv", "grouped", "depthwise", "pointwise", "batchnorm", "groupnorm", "prelu", "relu", "concat", "dense"),
    *("residual", "gate", "shuffle", "split", "glu", "pad", "index", "attention", "twice", "softmax", "flip"),
    *("transposed", "halves", "scale"),
)


class Random(nn.Module):
    """Parts one after the other on ``(batch, channels, height, width)``; every part keeps space as it is."""

    def __init__(self, parts: list[str], width: int) -> None:
        super().__init__()
        self.parts, self.layers, self.plain = parts, nn.ModuleList(), nn.ParameterList()
        self.stem = nn.Conv2d(3, width, 1)
        channels = [width]
        for part in parts:
            c = channels[-1]
            layer: nn.Module = nn.Identity()
            if part in ("conv", "transposed"):
                out = c + 4 if part == "conv" else 12
                make = nn.Conv2d if part == "conv" else nn.ConvTranspose2d
                layer, c = make(c, out, 3, padding=1), out
            elif part == "grouped":
                layer, c = nn.Conv2d(c, 24, 3, padding=1, groups=2 if c % 4 else 4), 24
            elif part == "depthwise":
                layer = nn.Conv2d(c, c, 3, padding=1, groups=c)
            elif part == "pointwise":
                layer, c = nn.Conv2d(c, 16, 1), 16
            elif part == "batchnorm":
                layer = nn.BatchNorm2d(c)
            elif part == "groupnorm":
                layer = nn.GroupNorm(2, c)
            elif part == "prelu":
                layer = nn.PReLU(c)
            elif part == "dense":
                layer, c = nn.Conv2d(c, 6, 3, padding=1), c + 6
            elif part in ("residual", "twice"):
                layer = nn.Conv2d(c, c, 1)
            elif part == "gate":
                layer = nn.Sequential(nn.Linear(c, 4), nn.ReLU(), nn.Linear(4, c))
            elif part == "attention":
                layer = nn.Linear(c, 3 * c)
            elif part == "concat":
                c += channels[0]
            elif part == "glu":
                c //= 2
            elif part == "pad":
                c += 4
            elif part == "index":
                c = len(range(0, c, 2)) * 2 if c > 4 else c
            elif part == "scale":
                self.plain.append(nn.Parameter(torch.empty(c, 1, 1)))
            if c % 2:
                raise ValueError("odd")
            self.layers.append(layer)
            channels.append(c)
        self.last = nn.Linear(channels[-1] * 9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = first = self.stem(x)
        scales = iter(self.plain)
        for part, layer in zip(self.parts, self.layers, strict=True):
            c = x.shape[1]
            if part == "concat":
                x = torch.cat([first, x], 1)
            elif part == "dense":
                x = torch.cat([x, layer(F.silu(x))], 1)
            elif part == "residual":
                x = x + layer(x.relu())
            elif part == "twice":
                x = layer(layer(x).tanh())
            elif part == "gate":
                x = x * layer(x.mean((2, 3)))[:, :, None, None].sigmoid()
            elif part == "shuffle":
                x = x.unflatten(1, (2, c // 2)).transpose(1, 2).flatten(1, 2)
            elif part == "split":
                a, b = x.split([c // 4, c - c // 4], 1)
                x = torch.cat([b, a.tanh()], dim=1)
            elif part == "halves":
                a, b = x.chunk(2, 1)
                x = torch.cat([a, a + b], 1)
            elif part == "glu":
                x = F.glu(x, 1)
            elif part == "pad":
                x = F.pad(x, (0, 0, 0, 0, 3, 1))
            elif part == "index":
                x = x[:, [*range(c - 1, -1, -2), *range(0, c, 2)]] if c > 4 else x
            elif part == "softmax":
                x = x.softmax(1) + x
            elif part == "flip":
                x = x + x.flip(1) * 0.5
            elif part == "scale":
                x = x * next(scales)
            elif part == "relu":
                x = F.relu(x, inplace=True)
            elif part == "attention":
                q, k, v = (y.unflatten(2, (2, c // 2)).transpose(1, 2) for y in layer(x.flatten(2).mT).chunk(3, -1))
                y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
                x = x + y.mT.unflatten(2, x.shape[2:])
            else:
                x = layer(x)
        return self.last(x.flatten(1))


networks = st.tuples(st.lists(st.sampled_from(PARTS), min_size=2, max_size=7), st.sampled_from([8, 12, 16]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks, st.integers(0, 3))
def test_random_orders_of_a_random_network_change_nothing(network: tuple[list[str], int], seed: int) -> None:
    torch.manual_seed(seed)
    try:
        model = Random(*network)
    except ValueError:
        return  # parts that do not fit one another
    _, _, error = shuffled(model, torch.randn(2, 3, 3, 3), seed)
    assert error < 1e-10


@settings(max_examples=8, deadline=None, derandomize=True)
@given(networks)
def test_permuting_a_random_network_rolls_nothing_back(network: tuple[list[str], int]) -> None:
    try:
        model = randomised(Random(*network).eval())
    except ValueError:
        return
    x = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    before = outputs_of(model, x)
    report = permute(model, x, strategy="channel_swap")
    assert "rolled_back" not in set(report.frame["status"])
    assert relative_error(before, outputs_of(model, x)) < 1e-3
