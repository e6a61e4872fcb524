"""Random tensor programs: views, contractions, softmaxes, norms, concats in any order and anywhere.

The zoo has networks that people write. These are networks that nobody would write: they look for a
dependence between leaves that a value somewhere forbids.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIMIT = 400


class Program(nn.Module):
    """A network drawn from a seed. Building it runs it once, to know the shapes; ``steps`` replays it."""

    def __init__(self, seed: int, length: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.weights = nn.ParameterList()
        self.steps: list[tuple[str, tuple]] = []
        self.text: list[str] = []
        width = self.rng.choice([6, 8, 12, 16])
        x = torch.zeros(2, 5) @ self._new(5, width)
        seen = [x]
        for _ in range(length):
            step = self._draw(x, seen)
            self.steps.append(step)
            x = self._run(step, x, seen)
            seen.append(x)
            self.text.append(f"{step[0]}{step[1]}->{tuple(x.shape[1:])}")
        self._new(x[0].numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.weights[0]
        seen = [x]
        for step in self.steps:
            x = self._run(step, x, seen)
            seen.append(x)
        return x.flatten(1) @ self.weights[len(self.weights) - 1]

    def _new(self, *shape: int) -> Tensor:
        self.weights.append(nn.Parameter(torch.zeros(shape)))
        return self.weights[len(self.weights) - 1]

    def _weight(self, *shape: int) -> int:
        self._new(*shape)
        return len(self.weights) - 1

    def _draw(self, x: Tensor, seen: list[Tensor]) -> tuple[str, tuple]:
        """One step that fits ``x``."""
        rng, shape = self.rng, tuple(x.shape)
        dims = range(1, len(shape))
        while True:
            kind, dim = rng.choice(KINDS), rng.choice(dims)
            size = shape[dim]
            room = LIMIT // math.prod(shape[1:])
            if kind == "split" and (factors := [f for f in range(2, size) if size % f == 0]) and len(shape) < 6:
                return kind, (dim, rng.choice(factors))
            if kind == "merge" and dim + 1 < len(shape):
                return kind, (dim,)
            if kind == "permute" and len(shape) > 2:
                return kind, tuple(rng.sample(list(dims), len(dims)))
            if kind == "linear" and size:
                out = rng.choice([4, 6, 8])
                return kind, (dim, self._weight(size, out))
            if kind in ("softmax", "center", "flip", "tanh", "std") or (kind == "halves" and size % 2 == 0):
                return kind, (dim,)
            if kind == "norm":
                return kind, (dim, self._weight(*shape[dim:]), self._weight(*shape[dim:]))
            if kind == "param":
                sizes = [n if rng.random() < 0.6 else 1 for n in shape[1:]]
                return kind, (self._weight(*sizes), rng.random() < 0.5)
            if kind == "outer" and size <= room:
                return kind, (dim,)
            if kind == "attend" and len(shape) > 2 and size <= 12:
                return kind, (dim, rng.choice([d for d in dims if d != dim]))
            if kind == "residual" and (same := [k for k, y in enumerate(seen[:-1]) if tuple(y.shape) == shape]):
                return kind, (rng.choice(same),)
            if kind == "cat" and room > 1:
                fitting = [k for k, y in enumerate(seen) if y.ndim == x.ndim and y.numel() <= x.numel()]
                fitting = [
                    k for k in fitting if all(a == b for d, (a, b) in enumerate(zip(seen[k].shape, shape)) if d != dim)
                ]
                return kind, (dim, rng.choice(fitting))
            if kind == "swap" and size > 2:
                return kind, (dim, rng.randrange(1, size))
            if kind == "repeat" and room > 1:
                return kind, (dim,)
            if kind == "index":
                return kind, (dim, tuple(rng.sample(range(size), size)))
            if kind == "mean" and len(shape) > 2:
                return kind, (dim,)

    def _run(self, step: tuple[str, tuple], x: Tensor, seen: list[Tensor]) -> Tensor:
        kind, a = step
        w = self.weights
        if kind == "split":
            return x.unflatten(a[0], (a[1], x.shape[a[0]] // a[1]))
        if kind == "merge":
            return x.flatten(a[0], a[0] + 1)
        if kind == "permute":
            return x.permute(0, *a)
        if kind == "linear":
            return (x.transpose(a[0], -1) @ w[a[1]]).transpose(a[0], -1)
        if kind == "softmax":
            return x.softmax(a[0])
        if kind == "center":
            return x - x.mean(a[0], keepdim=True)
        if kind == "std":
            return x / (1 + x.std(a[0], keepdim=True))
        if kind == "flip":
            return x + x.flip(a[0]) * 0.5
        if kind == "tanh":
            return x.tanh()
        if kind == "halves":
            first, second = x.chunk(2, a[0])
            return torch.cat([first * second.sigmoid(), second], a[0])
        if kind == "norm":
            return F.layer_norm(x, x.shape[a[0] :], w[a[1]], w[a[2]])
        if kind == "param":
            return x * w[a[0]] if a[1] else x + w[a[0]]
        if kind == "outer":
            y = x.transpose(a[0], -1)
            return torch.tanh(y[..., :, None] * y[..., None, :]).flatten(-2).transpose(a[0], -1)
        if kind == "attend":
            y = x.movedim(a, (-2, -1))
            return ((y @ y.mT).softmax(-1) @ y).movedim((-2, -1), a)
        if kind == "residual":
            return x + seen[a[0]].tanh()
        if kind == "cat":
            return torch.cat([x, seen[a[1]].tanh()], a[0])
        if kind == "swap":
            first, second = x.split([a[1], x.shape[a[0]] - a[1]], a[0])
            return torch.cat([second, first], a[0])
        if kind == "repeat":
            return torch.cat([x.repeat_interleave(2, a[0]) * 0.5], a[0])
        if kind == "index":
            return x.index_select(a[0], torch.tensor(a[1]))
        return x.mean(a[0])


KINDS = (
    *("split", "merge", "permute", "linear", "softmax", "center", "flip", "tanh", "halves", "norm", "param", "outer"),
    *("attend", "residual", "cat", "swap", "repeat", "index", "mean", "std", "split", "merge", "permute", "linear"),
    *("split", "merge", "permute", "param", "linear"),
)
