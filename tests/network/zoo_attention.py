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


_MOVES = (
    "inp.weight:0 norm.weight:0 q.weight:0 q.weight:1 k.weight:0 v.weight:0 v.bias:0 "
    "out.weight:0 out.weight:1 last.weight:1"
)


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
    "0.weight:0 1.self_attn.in_proj_weight:0 1.self_attn.in_proj_weight:1 "
    "1.self_attn.out_proj.weight:1 1.linear1.weight:0 1.linear1.weight:1 "
    "1.linear2.weight:1 1.norm1.weight:0 2.weight:1",
)
def transformer_encoder_layer():
    return nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), nn.Linear(16, 2))


@topology(
    vectors(2, 7, 5),
    "a.weight:0 dec.multihead_attn.in_proj_weight:1 dec.multihead_attn.out_proj.weight:1 "
    "dec.linear2.weight:1 out.weight:1",
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


# ------------------------------------------------------------------------------- masks, biases, scales, rotations


@topology(vectors(2, 7, 5), _MOVES)
class CausalByHand(_Attention):
    def attend(self, q, k, v):
        future = torch.ones(7, 7, dtype=torch.bool).triu(1)
        return (q @ k.transpose(-2, -1)).masked_fill(future, float("-inf")).softmax(-1) @ v


@topology(vectors(2, 7, 5), _MOVES)
class AdditiveMaskSDPA(_Attention):
    def attend(self, q, k, v):
        mask = torch.zeros(7, 7).to(q).masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), float("-inf"))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@topology(vectors(2, 7, 5), _MOVES + " bias:0", "bias:1 bias:2")
class LearnedBiasSDPA(_Attention):
    """A bias for every head is added to the scores: it moves with the heads, its positions stay."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(self.heads, 7, 7))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)


@topology(vectors(2, 7, 5), _MOVES)
class RotaryPairs(_Attention):
    """Neighbours are turned together, as in GPT-J: the widths of q and k stay, those of v move."""

    def attend(self, q, k, v):
        angle = torch.arange(7.0).to(q)[:, None] * torch.tensor([1.0, 0.1, 0.01]).to(q)
        cos, sin = angle.cos(), angle.sin()

        def turned(x):
            even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

        return super().attend(turned(q), turned(k), v)


@topology(
    vectors(2, 7, 5),
    "inp.weight:0 norm.weight:0 scale:0 gate.weight:0 up.weight:0 down.weight:1 "
    "down.weight:0 both.weight:1 back.weight:1 last.weight:1",
)
class GatedBlocks(nn.Module):
    """SwiGLU in two projections, GEGLU in one, layer scale and RMSNorm around them."""

    def __init__(self):
        super().__init__()
        self.inp, self.last, self.norm = nn.Linear(5, 16), nn.Linear(16, 3), nn.RMSNorm(16)
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((16, 24), (16, 24), (24, 16)))
        self.both, self.back, self.scale = nn.Linear(16, 40), nn.Linear(20, 16), nn.Parameter(torch.empty(16))

    def forward(self, x):
        x = self.inp(x)
        y = self.norm(x)
        x = x + self.scale * self.down(F.silu(self.gate(y)) * self.up(y))
        gate, value = self.both(self.norm(x)).chunk(2, -1)
        return self.last(x + self.scale * self.back(F.gelu(gate) * value))


@topology(
    picture(),
    "patch.weight:0 qkv.weight:0 qkv.weight:1 table:1 out.weight:1 out.weight:0 last.weight:1",
    "table:0",
)
class ShiftedWindows(nn.Module):
    """Attention within windows of a rolled picture, with a relative position bias looked up for every head (Swin)."""

    heads = 3

    def __init__(self):
        super().__init__()
        self.patch, self.last = nn.Conv2d(3, 12, 2, stride=2), nn.Linear(12, 2)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.table = nn.Parameter(torch.empty(9, self.heads))
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = (place[:, :, None] - place[:, None]) + 1
        self.register_buffer("index", 3 * apart[0] + apart[1])

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = x.roll((-1, -1), (1, 2)).view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        q, k, v = self.qkv(y).view(-1, 4, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(4, 4, self.heads).permute(2, 0, 1)
        y = ((q @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c)
        y = self.out(y).view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c).roll((1, 1), (1, 2))
        return self.last((x + y).mean((1, 2)))


@topology(
    vectors(2, 7, 5),
    "inp.weight:0 mha.q_proj_weight:1 mha.k_proj_weight:1 mha.v_proj_weight:0 "
    "mha.v_proj_weight:1 mha.out_proj.weight:1 other.weight:0 out.weight:1",
)
class AttentionOfTwoWidths(nn.Module):
    """Queries and keys of different widths have weights of their own; a mask is added."""

    def __init__(self):
        super().__init__()
        self.inp, self.other, self.out = nn.Linear(5, 16), nn.Linear(5, 12), nn.Linear(16, 2)
        self.mha = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)

    def forward(self, x):
        memory = F.relu(self.other(x))
        future = torch.ones(7, 7, dtype=torch.bool).triu(1)
        return self.out(self.mha(F.relu(self.inp(x)), memory, memory, attn_mask=future, need_weights=False)[0])
