"""Topologies of attention, transformers and products of channels with themselves; see ``zoo``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .zoo import picture, tokens, topology, vectors

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
