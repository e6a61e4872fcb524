"""Small networks, one for each topology, and what has to move: ``"tensor:dim"`` as in reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Topology:
    """A network with inputs; ``moves`` must change place under random orders, ``stays`` must not."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    moves: tuple[str, ...]
    stays: tuple[str, ...] = ()


ZOO: dict[str, Topology] = {}


def topology(inputs: Callable[[], Any], moves: str, stays: str = ""):
    """Register a module class, or a function that returns a module."""

    def register(build):
        ZOO[build.__name__] = Topology(build, inputs, tuple(moves.split()), tuple(stays.split()))
        return build

    return register


def picture(channels: int = 3, size: int = 8, batch: int = 2):
    return lambda: torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def vectors(*shape: int):
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def tokens(*shape: int, count: int = 20):
    return lambda: torch.randint(count, shape, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------------------- chains


@topology(vectors(4, 6), "0.weight:0 0.bias:0 2.weight:1 2.weight:0 4.weight:1", "0.weight:1 4.weight:0")
def linear_chain():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 3))


@topology(vectors(2, 3, 20), "0.weight:0 1.running_mean:0 3.weight:1 4.weight:0 5.weight:1")
def conv1d_chain():
    return nn.Sequential(
        nn.Conv1d(3, 8, 3),
        nn.BatchNorm1d(8),
        nn.SiLU(),
        nn.Conv1d(8, 12, 3),
        nn.InstanceNorm1d(12, affine=True, track_running_stats=True),
        nn.Conv1d(12, 4, 1),
    )


@topology(vectors(2, 3, 6, 6, 6), "0.weight:0 1.running_var:0 3.weight:1 3.weight:0 4.weight:0")
def conv3d_and_transposed():
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.Hardswish(),
        nn.Conv3d(8, 8, 3, padding=1),
        nn.ConvTranspose3d(8, 4, 2, stride=2),
    )


@topology(picture(), "0.weight:0 2.weight:0 2.weight:1 3.weight:0 4.weight:0 4.weight:1 5.weight:0")
def transposed_grouped():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.PReLU(8),
        nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2),
        nn.PReLU(12),
        nn.ConvTranspose2d(12, 8, 3, padding=1),
        nn.ConvTranspose2d(8, 2, 1),
    )


@topology(picture(), "0.weight:0 1.weight:0 1.running_mean:0 2.weight:1 3.weight:0 3.running_var:0 4.weight:1")
def sync_and_instance_norm():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.SyncBatchNorm(8),
        nn.Conv2d(8, 8, 3),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.Conv2d(8, 4, 1),
    )


@topology(picture(), "0.weight:0 1.weight:0 2.weight:1 2.weight:0 3.bias:0 4.weight:1 6.weight:1")
def group_and_layer_norm():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.GroupNorm(4, 16),
        nn.Conv2d(16, 8, 3),
        nn.GroupNorm(1, 8),
        nn.Conv2d(8, 12, 4),
        nn.Flatten(),
        nn.Linear(12, 16),
        nn.LayerNorm(16),
        nn.Linear(16, 4),
    )


@topology(vectors(3, 5), "a.weight:0 norm.weight:0 b.weight:1 gate.weight:0 scale:0")
class RMSNormGated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.norm = nn.Linear(5, 16), nn.Linear(5, 16), nn.RMSNorm(16)
        self.scale, self.b = nn.Parameter(torch.ones(16)), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.norm(F.silu(self.gate(x)) * self.a(x)) * self.scale)


@topology(picture(), "net.0.weight:0 net.3.weight:1 last.weight:1")
class Pointwise(nn.Module):
    """Pooling, interpolation, padding, dropout, flips over space and a long list of elementwise operators."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Dropout2d(0.5), nn.Conv2d(8, 12, 3), nn.AvgPool2d(2)
        )
        self.last = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = self.net(x)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.pad(x, (1, 1, 1, 1), mode="reflect").flip(-1)
        x = x.clamp(-3, 3).abs().sqrt().add(1).log() * torch.sigmoid(x) - x.tanh() / (1 + x.exp())
        x = torch.where(x > 0, x, x.square()).masked_fill(x > 2, 0.5).roll(1, -2)
        return self.last(F.adaptive_avg_pool2d(F.elu_(x), 1) + F.adaptive_max_pool2d(x, 1))


# ------------------------------------------------------------------------------------------------ groups and residuals


@topology(picture(), "0.weight:0 1.weight:0 2.weight:1 2.weight:0 3.weight:0 3.weight:1 4.weight:1")
def depthwise_and_grouped():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(16, 24, 1),
        nn.Conv2d(24, 12, 3, groups=4),
        nn.Conv2d(12, 4, 1),
    )


@topology(picture(), "stem.weight:0 two.weight:1 four.weight:1 two.weight:0 four.weight:0 last.weight:1")
class SiblingGroups(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)
        self.two, self.four = nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 16, 3, groups=4)

    def forward(self, x):
        x = self.stem(x)
        return self.last(F.relu(self.two(x) + self.four(x)))


@topology(
    picture(),
    "stem.weight:0 a.weight:0 a.weight:1 b.weight:0 b.weight:1 bn.running_mean:0 "
    "se1.weight:0 se1.weight:1 se2.weight:0 last.weight:1",
)
class ResidualSqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.a, self.b = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.se1, self.se2 = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        y = self.b(F.relu(self.a(x)))
        gate = torch.sigmoid(self.se2(F.relu(self.se1(y.mean((2, 3), keepdim=True)))))
        return self.last((x + y * gate).mean((-2, -1)))


@topology(picture(), "stem.weight:0 down.weight:1 last.weight:1 grow.weight:0", "")
class PaddedShortcut(nn.Module):
    """A shortcut that adds channels of zeros (option A of the residual networks for CIFAR)."""

    def __init__(self):
        super().__init__()
        self.stem, self.grow, self.down = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.last(F.relu(self.down(F.relu(F.pad(x, (0, 0, 0, 0, 4, 4)) + self.grow(x)))))


# ------------------------------------------------------------------------------------------------- concat and split


@topology(picture(), "stem.weight:0 layers.0.weight:1 layers.1.weight:1 layers.2.weight:1 norm.weight:0 last.weight:1")
class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(20), nn.Conv2d(20, 4, 1)
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * k, 4, 3, padding=1) for k in range(3))

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(F.relu(x))], dim=1)
        return self.last(self.norm(x))


@topology(
    picture(), "down1.weight:0 down2.weight:0 down2.weight:1 up.weight:0 up.weight:1 merge.weight:1 last.weight:1"
)
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.merge = nn.ConvTranspose2d(16, 12, 2, stride=2), nn.Conv2d(20, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = self.up(F.relu(self.down2(F.max_pool2d(a, 2))))
        return self.last(F.relu(self.merge(torch.cat(tensors=(a, b), dim=-3))))


@topology(picture(), "stem.weight:0 norm.weight:0 grouped.weight:0 grouped.weight:1 last.weight:1")
class GroupsOverConcat(nn.Module):
    """GroupNorm and a grouped convolution over a concat of unequal widths."""

    def __init__(self):
        super().__init__()
        self.stem, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 16, 1)
        self.norm, self.grouped, self.last = nn.GroupNorm(6, 24), nn.Conv2d(24, 12, 1, groups=6), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.last(F.relu(self.grouped(self.norm(torch.cat([self.stem(x), self.other(x)], 1)))))


@topology(picture(), "a.weight:0 norm.weight:0 first.weight:0 second.weight:0 head.weight:1")
class GroupsStraddleConcat(nn.Module):
    """Groups of 12 over a concat of 8 and 16, as in the U-Nets of diffusion models: blocks of 4 keep their places."""

    def __init__(self):
        super().__init__()
        self.a, self.first = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.b, self.second = nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.norm, self.head = nn.GroupNorm(2, 24), nn.Conv2d(24, 4, 1)

    def forward(self, x):
        skip = self.a(x)
        return self.head(self.norm(torch.cat([skip, self.second(self.b(self.first(skip)))], 1)))


@topology(picture(), "stem.weight:0 a.weight:0 a.weight:1 b.weight:1 last.weight:1")
class UnevenSplit(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 24, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 12, 1)
        self.last = nn.Conv2d(20, 4, 1)

    def forward(self, x):
        x, y = self.stem(x).split([8, 16], dim=1)
        return self.last(torch.cat([F.relu(self.a(x)) + x, self.b(y)], 1))


@topology(picture(), "stem.weight:0 convs.0.weight:0 convs.0.weight:1 convs.1.weight:1 last.weight:1")
class Res2Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 4, 1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        first, *others = self.stem(x).chunk(4, 1)
        outs, y = [first], 0
        for conv, part in zip(self.convs, others, strict=True):
            y = F.relu(conv(part + y))
            outs.append(y)
        return self.last(torch.cat(outs, 1))


@topology(picture(), "0.weight:0 5.weight:1 3.weight:0 5.weight:0 7.weight:1")
def flatten_before_classifier():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Conv2d(8, 12, 1),
        nn.Flatten(),
        nn.Linear(48, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


@topology(vectors(4, 6), "0.weight:0 2.weight:1")
def flatten_that_changes_nothing():
    return nn.Sequential(nn.Linear(6, 8), nn.Flatten(), nn.Linear(8, 3))


@topology(picture(size=12), "a.weight:0 norm.weight:0 mix.weight:1 mix.weight:0 b.weight:1 b.weight:0 c.weight:1")
class WindowsThenGrid(nn.Module):
    """Windows of 3 pixels and a grid of 4 places cut across each other in space; channels stand beside them."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.mix = nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Linear(8, 16)
        self.b, self.c = nn.Linear(16, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.a(x).reshape(-1, 8, 4, 3, 4, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 9, 8)
        x = (
            self.mix(self.norm(x))
            .softmax(2)
            .reshape(-1, 4, 4, 3, 3, 16)
            .permute(0, 5, 1, 3, 2, 4)
            .reshape(-1, 16, 12, 12)
        )
        x = x.reshape(-1, 16, 3, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, 16, 16)
        x = self.b(x).softmax(2).reshape(-1, 3, 3, 4, 4, 8).permute(0, 5, 1, 3, 2, 4).reshape(-1, 8, 12, 12)
        return self.c(x)


# ----------------------------------------------------------------------------------- attributes, tied, twice, wrapped


@topology(vectors(4, 6), "square:0 square:1 shift:0 running:0 inp.weight:0 out.weight:1")
class Attributes(nn.Module):
    """Parameters and buffers used as attributes, a square one among them."""

    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.square, self.shift = nn.Parameter(torch.empty(8, 8)), nn.Parameter(torch.empty(8))
        self.register_buffer("running", torch.empty(8))

    def forward(self, x):
        return self.out(F.relu(F.relu(self.inp(x)) @ self.square + self.shift) * self.running)


@topology(vectors(4, 6), "a.weight:0 a.weight:1 b.weight:0 inp.weight:0 out.weight:1")
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(F.relu(self.b(F.relu(self.a(F.relu(self.inp(x)))))))


@topology(vectors(4, 6), "inp.weight:0 again.weight:0 again.weight:1 out.weight:1")
class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.again, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(F.relu(self.again(F.relu(self.again(F.relu(self.inp(x)))))))


@topology(
    vectors(4, 6),
    "0.parametrizations.weight.original0:0 0.parametrizations.weight.original1:0 2.parametrizations.weight.original1:1",
)
def weight_norm():
    wrap = nn.utils.parametrizations.weight_norm
    return nn.Sequential(wrap(nn.Linear(6, 8)), nn.ReLU(), wrap(nn.Linear(8, 12)), nn.ReLU(), nn.Linear(12, 2))


@topology(picture(), "stem.weight:0 mid.weight:0 mid.weight:1 last.weight:1")
class ShuffleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.mid, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.mid(F.relu(self.stem(x)))
        b, c, h, w = x.shape
        return self.last(F.relu(x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)))


@topology(picture(), "stem.weight:0 up.weight:1 up.weight:0 last.weight:1")
class PixelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.up, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        return self.last(F.pixel_unshuffle(F.relu(F.pixel_shuffle(self.up(self.stem(x)), 2)), 2))


@topology(picture(), "stem.weight:0 last.weight:1 linear.weight:0")
class GLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 4, 1)
        self.linear, self.out = nn.Linear(4, 24), nn.Linear(12, 2)

    def forward(self, x):
        x = self.last(F.glu(self.stem(x), dim=1)).mean((2, 3))
        return self.out(F.glu(self.linear(x)))


@topology(picture(), "stem.weight:0 mid.weight:1 mid.weight:0 last.weight:1")
class ConstantIndex(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.mid, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(5, 4, 1)
        self.order = torch.tensor([3, 1, 0, 2, 7, 5, 4, 6])
        self.register_buffer("few", torch.tensor([6, 2, 3, 1, 7]))

    def forward(self, x):
        return self.last(F.relu(self.mid(self.stem(x)[:, self.order]))[:, self.few])


@topology(
    lambda: {"x": vectors(4, 6)(), "y": vectors(4, 5)()},
    "a.weight:0 b.weight:0 c.weight:1 bil.weight:0 bil.weight:1 bil.weight:2 d.weight:1",
)
class SeveralInputsOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(12, 2)
        self.bil = nn.Bilinear(8, 8, 12)

    def forward(self, y, x):
        h, g = torch.tanh(self.a(x)), torch.tanh(self.b(y))
        return {"sum": self.c(h + g), "more": [self.d(F.relu(self.bil(h, g)))]}


@dataclass
class Answer:
    logits: torch.Tensor
    note: str = "a dataclass that torch.export was never told about"


@topology(vectors(4, 6), "a.weight:0 b.weight:1", "b.weight:0")
class DataclassOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return Answer(self.b(F.relu(self.a(x)))[: x.shape[0]].view(x.size(0), -1))


@topology(vectors(4, 6), "a.weight:0 b.weight:0 c.weight:1")
class ComplexNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        turned = torch.view_as_complex(torch.stack([self.a(x), self.b(x)], -1)) * 1j
        return self.c(torch.view_as_real(turned).sum(-1))


@topology(picture(), "a.weight:0 b.weight:1")
class UnfoldAndFold(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        windows = torch.tanh(F.unfold(self.a(x), 3, padding=1))
        return self.b(F.fold(windows, (8, 8), 3, padding=1))


@topology(vectors(4, 6), "a.weight:0 codes:1 b.weight:1")
class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.codes, self.b = nn.Linear(6, 16), nn.Parameter(torch.ones(5, 16)), nn.Linear(16, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b((-torch.cdist(x, self.codes)).softmax(-1) @ self.codes)


@topology(vectors(4, 6), "a.weight:0 b.weight:1")
class ScaledByItsOwnNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.a(x) * x.abs().max().item())


# ---------------------------------------------------------------------------------------------------- must be left


def left_alone(name: str, between: Callable[[torch.Tensor], torch.Tensor], out: int = 8):
    """A pair of 1x1 convolutions with something between them that order matters to."""

    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(out, 4, 1)

        def forward(self, x):
            return self.b(between(self.a(x)))

    ZOO[name] = Topology(Between, picture(), (), ("a.weight:0", "b.weight:1", "a.weight:1", "b.weight:0"))


left_alone("flip_channels", lambda x: x.flip(1))
left_alone("roll_channels", lambda x: x.roll(1, 1))
left_alone("sort_channels", lambda x: x.sort(1)[0])
left_alone("topk_channels", lambda x: x.topk(8, 1).values)
left_alone("cumsum_channels", lambda x: x.cumsum(1))
left_alone("argmax_channels", lambda x: x * x.argmax(1, keepdim=True).double())
left_alone("max_position", lambda x: x + x.max(1, keepdim=True)[1])
left_alone("local_response_norm", lambda x: F.local_response_norm(x, 3))
left_alone("ramp_over_channels", lambda x: x + torch.arange(8.0).to(x)[:, None, None])
left_alone(
    "operator_without_rule",
    lambda x: torch.linalg.matrix_exp(x.mean((2, 3))[:, :, None] * x.mean((2, 3))[:, None])[..., None],
)
left_alone("strided_slice_and_rest", lambda x: x[:, 1::3], out=3)
left_alone("bits_of_numbers", lambda x: x.float().view(torch.int16)[..., 0].to(x)[..., None])
left_alone("fft_over_channels", lambda x: torch.fft.fft(x, dim=1).real)


@topology(vectors(4, 8), "", "a.weight:0 a.weight:1")
class ResidualFromInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.a(x)


@topology(vectors(4, 6), "", "a.weight:0 b.weight:0")
class IndexWrittenTo(nn.Module):
    """Eight places that the analysis does not know: they are written to after the index was made."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("order", torch.arange(7, -1, -1))

    def forward(self, x):
        order = self.order.clone()
        order[0], order[7] = 0, 7
        return self.b(torch.tanh(self.a(x))[:, order])
