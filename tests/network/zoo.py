"""Small networks, one a topology, each with what has to move: ``"tensor:dim"`` as in a report's ``members``."""

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
    "stem.weight:0 a.weight:0 a.weight:1 b.weight:0 b.weight:1 bn.running_mean:0 se1.weight:0 se1.weight:1 se2.weight:0 last.weight:1",
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
left_alone("fft_over_channels", lambda x: torch.fft.fft(x, dim=1).real)


@topology(vectors(4, 8), "", "a.weight:0 a.weight:1")
class ResidualFromInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.a(x)


# ----------------------------------------------------------------------------------------------- attention and friends


class _Attention(nn.Module):
    heads, width, dim = 4, 6, 16

    def __init__(self):
        super().__init__()
        inner = self.heads * self.width
        self.inp, self.last = nn.Linear(5, self.dim), nn.Linear(self.dim, 3)
        self.norm, self.out = nn.LayerNorm(self.dim), nn.Linear(inner, self.dim)
        self.make(inner)

    def make(self, inner):
        self.q, self.k, self.v = (nn.Linear(self.dim, inner) for _ in range(3))

    def qkv(self, x):
        b, t, _ = x.shape
        return (m(x).view(b, t, self.heads, self.width).transpose(1, 2) for m in (self.q, self.k, self.v))

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1) / self.width**0.5).softmax(-1) @ v

    def forward(self, x):
        x = self.inp(x)
        b, t, _ = x.shape
        y = self.attend(*self.qkv(self.norm(x))).transpose(1, 2).reshape(b, t, -1)
        return self.last(x + self.out(y))


_MOVES = "inp.weight:0 norm.weight:0 q.weight:0 q.weight:1 k.weight:0 v.weight:0 v.bias:0 out.weight:0 out.weight:1 last.weight:1"


@topology(vectors(2, 7, 5), _MOVES)
class HandWrittenAttention(_Attention):
    pass


@topology(vectors(2, 7, 5), _MOVES)
class CausalSDPA(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@topology(vectors(2, 7, 5), _MOVES)
class MaskedSDPA(_Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(7, 7, dtype=torch.bool).tril())


@topology(vectors(2, 7, 5), _MOVES)
class EinsumAttention(_Attention):
    def attend(self, q, k, v):
        return torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v)


class _Packed(_Attention):
    def make(self, inner):
        self.qkv_ = nn.Linear(self.dim, 3 * inner)


@topology(vectors(2, 7, 5), "qkv_.weight:0 qkv_.weight:1 out.weight:1")
class PackedThreeHeadsWidth(_Packed):
    def qkv(self, x):
        b, t, _ = x.shape
        return self.qkv_(x).view(b, t, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)


@topology(vectors(2, 7, 5), "qkv_.weight:0 qkv_.weight:1 out.weight:1")
class PackedHeadsThreeWidth(_Packed):
    def qkv(self, x):
        b, t, _ = x.shape
        return self.qkv_(x).view(b, t, self.heads, 3 * self.width).transpose(1, 2).chunk(3, -1)


@topology(vectors(2, 7, 5), "qkv_.weight:0 qkv_.weight:1 out.weight:1")
class PackedChunks(_Packed):
    def qkv(self, x):
        b, t, _ = x.shape
        return (y.view(b, t, self.heads, self.width).transpose(1, 2) for y in self.qkv_(x).chunk(3, -1))


@topology(vectors(2, 7, 5), _MOVES)
class GroupedQueries(_Attention):
    def make(self, inner):
        self.q, self.k, self.v = (
            nn.Linear(self.dim, inner),
            nn.Linear(self.dim, inner // 2),
            nn.Linear(self.dim, inner // 2),
        )

    def qkv(self, x):
        b, t, _ = x.shape
        q, k, v = (m(x).view(b, t, -1, self.width).transpose(1, 2) for m in (self.q, self.k, self.v))
        return q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)


@topology(vectors(2, 7, 5), _MOVES)
class GroupedQueriesSDPA(GroupedQueries):
    def qkv(self, x):
        b, t, _ = x.shape
        return (m(x).view(b, t, -1, self.width).transpose(1, 2) for m in (self.q, self.k, self.v))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@topology(vectors(2, 7, 5), _MOVES)
class SoftmaxOverHeads(_Attention):
    """Talks between heads: head and width may not depend on one another."""

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(1) @ v * v.softmax(1)


@topology(vectors(2, 7, 5), _MOVES + " shared.weight:0 shared.weight:1")
class SharedHeadProjection(_Attention):
    """One projection for every head: all heads take the same order."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(self.width, self.width)

    def attend(self, q, k, v):
        return super().attend(q, k, F.relu(self.shared(v)))


@topology(vectors(2, 7, 5), "inp.weight:0 q.weight:1 q.weight:0 v.weight:0 out.weight:1")
class Rotary(_Attention):
    def attend(self, q, k, v):
        angle = torch.arange(7.0).to(q)[:, None] * torch.tensor([1.0, 0.1, 0.01]).to(q)
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()

        def turned(x):
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat([-second, first], -1) * sin

        return super().attend(turned(q), turned(k), v)


@topology(
    vectors(2, 7, 5),
    "0.weight:0 1.self_attn.in_proj_weight:0 1.self_attn.in_proj_weight:1 1.self_attn.out_proj.weight:1 1.linear1.weight:0 1.linear1.weight:1 1.linear2.weight:1 1.norm1.weight:0 2.weight:1",
)
def transformer_encoder_layer():
    return nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), nn.Linear(16, 2))


@topology(
    vectors(2, 7, 5),
    "a.weight:0 dec.multihead_attn.in_proj_weight:1 dec.multihead_attn.out_proj.weight:1 dec.linear2.weight:1 out.weight:1",
)
class DecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(16, 2)
        self.dec = nn.TransformerDecoderLayer(16, 4, 24, batch_first=True)

    def forward(self, x):
        return self.out(self.dec(self.a(x), self.b(x)))


@topology(tokens(2, 7), "embed.weight:1 position:2 fc.weight:1 fc.weight:0 back.weight:1", "embed.weight:0 position:1")
class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Embedding(20, 16), nn.Parameter(torch.empty(1, 7, 16))
        self.fc, self.back = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, ids):
        x = self.embed(ids) + self.position
        x = x + self.back(F.gelu(self.fc(x)))
        return x @ self.embed.weight.T


@topology(
    picture(),
    "patch.weight:0 token.0.weight:0 token.2.weight:1 channel.0.weight:0 channel.0.weight:1 out.weight:1",
    "token.0.weight:1",
)
class MLPMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.out = nn.Conv2d(3, 12, 2, stride=2), nn.Linear(12, 2)
        self.token = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16))
        self.channel = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.token(x.transpose(1, 2)).transpose(1, 2)
        return self.out((x + self.channel(x)).mean(1))


@topology(picture(), "stem.weight:0 theta.weight:0 theta.weight:1 g.weight:0 back.weight:1 last.weight:1")
class NonLocalBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)
        self.theta, self.phi, self.g, self.back = (nn.Conv2d(a, b, 1) for a, b in ((16, 8), (16, 8), (16, 8), (8, 16)))

    def forward(self, x):
        x = self.stem(x)
        theta, phi, g = (m(x).flatten(2) for m in (self.theta, self.phi, self.g))
        y = (theta.transpose(1, 2) @ phi).softmax(-1) @ g.transpose(1, 2)
        return self.last(x + self.back(y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])))


@topology(vectors(2, 7, 5), "q.weight:0 k.weight:0 v.weight:0 out.weight:1")
class ChannelAttention(nn.Module):
    """Attention between channels within a head (XCiT): the width stands twice in the scores."""

    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(5, 12)
        self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))
        self.temperature, self.out = nn.Parameter(torch.empty(3, 1, 1)), nn.Linear(12, 2)

    def forward(self, x):
        x = self.inp(x)
        q, k, v = (F.normalize(m(x).view(2, 7, 3, 4).permute(0, 2, 3, 1), dim=-1) for m in (self.q, self.k, self.v))
        y = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1) @ v
        return self.out(y.permute(0, 3, 1, 2).reshape(2, 7, 12))


@topology(vectors(3, 5), "inp.weight:0 out.weight:1")
class GramMatrix(nn.Module):
    """Products of all pairs of channels, flattened: the axis stands twice in one dimension."""

    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(5, 6), nn.Linear(36, 2)

    def forward(self, x):
        x = self.inp(x)
        return self.out((x[:, :, None] * x[:, None, :]).flatten(1))
