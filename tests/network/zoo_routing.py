"""Topologies that put numbers into places, route tokens to experts, and unpack what was packed; see ``zoo``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .zoo import topology, vectors


class _Stream(nn.Module):
    """A residual stream of 16 between two projections; what is done to it is in ``stream``."""

    def __init__(self):
        super().__init__()
        self.inp, self.up, self.down, self.last = (
            nn.Linear(5, 16),
            nn.Linear(16, 12),
            nn.Linear(12, 16),
            nn.Linear(16, 3),
        )
        self.see = nn.Linear(5, 16)
        self.make()

    def make(self):
        pass

    def stream(self, h, x):
        raise NotImplementedError

    def forward(self, x):
        h = self.stream(self.inp(x), x)
        return self.last(h + self.down(F.relu(self.up(h)))) + 0 * self.see(x).sum()


_STREAM = "inp.weight:0 up.weight:1 down.weight:0 last.weight:1"
_STAYS = "up.weight:1 last.weight:1 inp.weight:0"


# ------------------------------------------------------------------------------------------------------ put into places


@topology(vectors(2, 7, 5), f"{_STREAM} pos:1")
class PositionsOutsideTheStateDict(_Stream):
    def make(self):
        self.register_buffer("pos", torch.randn(7, 16), persistent=False)

    def stream(self, h, x):
        return h + self.pos


@topology(vectors(2, 7, 5), _STREAM)
class NoRegisters(_Stream):
    """A parameter of no numbers, for tokens that this size of the model does not have."""

    def make(self):
        self.registers = nn.Parameter(torch.zeros(1, 0, 16))

    def stream(self, h, x):
        return torch.cat([self.registers.expand(2, -1, -1), h], 1)


@topology(vectors(2, 7, 5), f"{_STREAM} pos:1")
class PositionsInAnAttribute(_Stream):
    def make(self):
        self.pos = torch.randn(7, 16)

    def stream(self, h, x):
        return h + self.pos.to(h)


@topology(vectors(2, 7, 5), _STREAM)
class ShapeOfASelect(_Stream):
    def stream(self, h, x):
        batch, tokens = h[:, :, -1].shape
        return h.view(batch, tokens, -1)


@topology(vectors(2, 7, 5), f"{_STREAM} mask_embed:0")
class PutByAMask(_Stream):
    def make(self):
        self.mask_embed = nn.Parameter(torch.empty(16))

    def stream(self, h, x):
        h = h.clone()
        h[x[..., 0] > 0] = self.mask_embed
        return h


@topology(vectors(2, 7, 5), f"{_STREAM} see.weight:0")
class PutByAnIndex(_Stream):
    def stream(self, h, x):
        at = x[0, :4, 0].argsort()
        return h.index_put((torch.tensor([1]), at), self.see(x)[0, :4]).index_add(1, at, self.see(x)[:, :4])


@topology(vectors(2, 7, 5), f"{_STREAM} see.weight:0")
class Scattered(_Stream):
    def stream(self, h, x):
        at = x[:, :, 0].argsort(1)[..., None].expand(-1, -1, 16)
        return torch.zeros_like(h).scatter_add(1, at, self.see(x)) + h.scatter(1, at, h).scatter_reduce(
            1, at, self.see(x), "amax"
        )


@topology(vectors(2, 7, 5), "", _STAYS)
class ScatteredAlongChannels(_Stream):
    def stream(self, h, x):
        return h.scatter_add(2, h.argsort(2), h)


@topology(vectors(2, 7, 5), f"{_STREAM} see.weight:0")
class FilledByRows(_Stream):
    """Features of another encoder among tokens: the mask is one for all channels, so rows stay whole."""

    def stream(self, h, x):
        return h.masked_scatter((x[..., :1] > 0).expand_as(h), self.see(x))


@topology(vectors(2, 7, 5), f"{_STREAM} see.weight:0")
class FilledByRowsOfAColumn(_Stream):
    """The same with a mask that is not expanded: one column for all channels."""

    def stream(self, h, x):
        return h.masked_scatter(x[..., :1] > 0, self.see(x))


@topology(vectors(2, 7, 5), "", f"{_STAYS} see.weight:0")
class FilledNumberByNumber(_Stream):
    """The mask differs from channel to channel: which number comes next depends on their order."""

    def stream(self, h, x):
        return h.masked_scatter((x[..., :1] > 0).expand_as(h) & (h > 0), self.see(x))


@topology(vectors(2, 7, 5), _STREAM)
class DroppedByHand(_Stream):
    """Dropout that somebody wrote: each number is kept or not, here all of them."""

    def stream(self, h, x):
        return h * torch.empty_like(h).bernoulli_(1.0)


# ------------------------------------------------------------------------------------------------------------- experts


@torch.library.custom_op("sparselab_tests::grouped_mm_fallback", mutates_args=())
def _grouped(input: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    """What a grouped product is defined as, in any dtype: each group of rows by the matrix of its own."""
    starts = [0, *offs.tolist()[:-1]]
    rows = [input[start:end] @ matrix for start, end, matrix in zip(starts, offs.tolist(), weight, strict=True)]
    rest = input.new_zeros(len(input) - sum(map(len, rows)), weight.shape[2])
    return torch.cat([*rows, rest])


@_grouped.register_fake
def _(input, weight, offs):
    return input.new_empty(input.shape[0], weight.shape[2])


class _Experts(_Stream):
    """Four experts of width 8 with a gate, behind a router; tokens sorted by expert."""

    def make(self):
        self.router = nn.Linear(16, 4)
        self.gate_up, self.back = nn.Parameter(torch.empty(4, 16, 16)), nn.Parameter(torch.empty(4, 16, 8))

    def stream(self, h, x):
        flat = h.flatten(0, 1)
        best = self.router(flat).argmax(-1)
        at = best.argsort()
        ends = F.one_hot(best, 4).sum(0).cumsum(0).to(torch.int32)
        mixed = self.experts(flat[at], best[at], ends)
        return h + torch.zeros_like(flat).index_copy(0, at, mixed).view_as(h)

    def experts(self, tokens, numbers, ends):
        gate, up = _grouped(tokens, self.gate_up.mT, ends).chunk(2, -1)
        return _grouped(F.silu(gate) * up, self.back.mT, self.again(ends))

    def again(self, ends):
        return ends


_MOE = f"{_STREAM} router.weight:1 gate_up:1 gate_up:2 back:1 back:2"


@topology(vectors(2, 7, 5), _MOE, "router.weight:0")
class GroupedExperts(_Experts):
    pass


@topology(vectors(2, 7, 5), _MOE)
class ExpertsWithABias(_Experts):
    """A bias is looked up for every token: nothing says any longer whose it is, and experts share one order."""

    def make(self):
        super().make()
        self.bias = nn.Parameter(torch.empty(4, 16))

    def experts(self, tokens, numbers, ends):
        gate, up = (_grouped(tokens, self.gate_up.mT, ends) + self.bias[numbers]).chunk(2, -1)
        return _grouped(F.silu(gate) * up, self.back.mT, ends)


@topology(vectors(2, 7, 5), _MOE)
class ExpertsGroupedAnew(_Experts):
    """The second product groups the same tokens in another way: experts share one order."""

    def again(self, ends):
        return (ends + 3).clamp(max=14)


@topology(vectors(2, 7, 5), _MOE)
class BatchedExperts(_Experts):
    """The matrices of its expert are looked up for every token."""

    def experts(self, tokens, numbers, ends):
        gate, up = (self.gate_up[numbers] @ tokens[..., None])[..., 0].chunk(2, -1)
        return torch.bmm(self.back[numbers], (F.silu(gate) * up)[..., None])[..., 0]


# ------------------------------------------------------------------------------------------------------------ unpacking


class _Packed(nn.Module):
    """Attention of 4 heads of 6, whose q, k and v come from one projection; q and k are turned, v is not."""

    def __init__(self):
        super().__init__()
        self.inp, self.qkv, self.proj = nn.Linear(5, 16), nn.Linear(16, 72), nn.Linear(24, 3)

    def parts(self, packed):
        raise NotImplementedError

    def forward(self, x):
        q, k, v = (part.transpose(1, 2) for part in self.parts(self.qkv(self.inp(x))))
        turn = torch.linspace(0.1, 1, 6).to(x)
        return self.proj(((q * turn) @ (k * turn).mT @ v).transpose(1, 2).flatten(2))


_PACKED = "inp.weight:0 qkv.weight:0 qkv.bias:0 proj.weight:1"


@topology(vectors(2, 7, 5), _PACKED)
class PackedOutermost(_Packed):
    def parts(self, packed):
        return packed.view(2, 7, 3, 4, 6).permute(2, 0, 1, 3, 4).unbind(0)


@topology(vectors(2, 7, 5), _PACKED)
class PackedWithinHeads(_Packed):
    def parts(self, packed):
        packed = packed.view(2, 7, 4, 3, 6)
        return packed[..., 0, :], packed.transpose(1, 3)[:, 1].transpose(1, 2), packed[..., 2, :]


@topology(vectors(2, 7, 5), _PACKED)
class PackedInGroups(_Packed):
    """Two groups of two queries, one key and one value (Falcon)."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def parts(self, packed):
        packed = packed.view(2, 7, 2, 4, 6)
        q, k, v = packed[:, :, :, :-2], packed[:, :, :, -2:-1], packed[:, :, :, 3:]
        return q.reshape(2, 7, 4, 6), *(each.expand(2, 7, 2, 2, 6).reshape(2, 7, 4, 6) for each in (k, v))


@topology(vectors(2, 7, 5), "inp.weight:0 qkv.weight:1", "qkv.weight:0")
class PackedAndMixed(_Packed):
    """All three are scaled as one before they part, so they share their orders, and those are pinned."""

    def parts(self, packed):
        packed = packed.view(2, 7, 3, 4, 6) * torch.arange(1.0, 7).to(packed) * torch.arange(1.0, 5).to(packed)[:, None]
        return packed.chunk(3, 2)[0][:, :, 0], packed[:, :, 1], packed[:, :, 2]


# ------------------------------------------------------------------------------------------------------ what says little


@topology(vectors(2, 4, 8, 8), "a.weight:0 n.weight:0 b.weight:1")
class MovedDimension(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(4, 16, 3), nn.LayerNorm(16), nn.Conv2d(16, 3, 3)

    def forward(self, x):
        return self.b(self.n(self.a(x).movedim(1, -1)).movedim(-1, 1))


@topology(vectors(2, 7, 5), _STREAM)
class CastLikeAnother(_Stream):
    """A tensor that only lends its dtype, of a size that could be broadcast and of one that could not."""

    def stream(self, h, x):
        return h.type_as(torch.arange(16.0).to(x)).to(torch.arange(3.0).to(x))


class _ConvolvedValues(nn.Module):
    """The values of 4 heads of 6 are convolved, each head by itself, as a picture of tokens and width (Nystromformer)."""

    kernel, padding = (3, 1), (1, 0)

    def __init__(self):
        super().__init__()
        self.v, self.proj = nn.Linear(5, 24), nn.Linear(24, 3)
        self.conv = nn.Conv2d(4, 4, self.kernel, padding=self.padding, groups=4)

    def forward(self, x):
        values = self.conv(self.v(x).view(2, 7, 4, 6).transpose(1, 2))
        return self.proj(values.transpose(1, 2).flatten(2))


@topology(vectors(2, 7, 5), "v.weight:0 v.bias:0 proj.weight:1 conv.weight:0")
class ConvolvedOverTokens(_ConvolvedValues):
    pass


@topology(vectors(2, 7, 5), "conv.weight:0")
class ConvolvedOverBoth(_ConvolvedValues):
    """Heads move as wholes, and nothing within them."""

    kernel, padding = (3, 3), (1, 1)


class _PooledTokens(_Stream):
    """Tokens are pooled as a picture of tokens and channels (Funnel)."""

    window = (2, 1)

    def stream(self, h, x):
        return F.avg_pool2d(h[:, None], self.window, (2, 1), ceil_mode=True)[:, 0] + F.max_pool2d(
            h[:, None], self.window, (2, 1), ceil_mode=True
        ).squeeze(1)


@topology(vectors(2, 7, 5), _STREAM)
class PooledOverTokens(_PooledTokens):
    pass


@topology(vectors(2, 7, 5), "", "inp.weight:0")
class PooledOverChannels(_PooledTokens):
    window = (2, 3)

    def stream(self, h, x):
        return F.pad(super().stream(h, x), (0, 2))
