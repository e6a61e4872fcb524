"""V:N:M masks: in every block of V rows and M columns the best four columns, and of those N of 4 in each row."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from sparselab.core.progress import late_bar
from sparselab.ops.masks import require_finite, top_n_of_m, without_overflow

KEPT_COLUMNS = 4
"""Columns that a block keeps: those of a group that sparse tensor cores take."""

_CHUNK_ELEMENTS = 1 << 22


def best_columns(scores: Tensor, v: int, n: int, m: int) -> Tensor:
    """Keep ``n`` of every ``m`` columns, all within the same four columns for ``v`` rows: the four that keep the most.

    ``scores``: ``(rows, channels)``, any float dtype and device, rows divisible by ``v``, channels
    by ``m``; ``n`` is 1 or 2. Tries every choice of four columns (70 of 8, 1,820 of 16, 35,960 of
    32); between equal ones the first in lexicographic order wins, within a row the lower column.
    Sums over rows are float64. A progress bar shows up when it takes longer than two seconds.
    Returns a bool tensor. Raises ``ValueError`` for NaN or infinite scores.
    """
    require_finite(scores)
    rows, channels = scores.shape
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    values = without_overflow(scores.abs().to(dtype), KEPT_COLUMNS)
    blocks = values.reshape(rows // v, v, channels // m, m).permute(0, 2, 3, 1).reshape(-1, m, v)
    columns = _four_columns(m).to(scores.device)
    chosen = []
    with late_bar(f"{v}:{n}:{m} masks", "block", total=len(blocks)) as bar:
        for part in torch.split(blocks, max(1, _CHUNK_ELEMENTS // (v * m * m))):
            chosen.append(columns[_worth(part, n).argmax(1)])
            bar.update(len(part))
    best = torch.cat(chosen)[:, :, None].expand(-1, -1, v)
    kept = top_n_of_m(blocks.gather(1, best).transpose(1, 2).reshape(-1, KEPT_COLUMNS), n, KEPT_COLUMNS)
    mask = torch.zeros_like(blocks, dtype=torch.bool)
    mask.scatter_(1, best, kept.reshape(-1, v, KEPT_COLUMNS).transpose(1, 2))
    return mask.reshape(rows // v, channels // m, m, v).permute(0, 3, 1, 2).reshape(rows, channels)


def _worth(blocks: Tensor, n: int) -> Tensor:
    """What each choice of four columns keeps in each of ``blocks`` ``(k, m, v)``: ``(k, choices)``, float64.

    Of two pairs of columns, the best entry is the larger of the pairs' best; the best two entries are one pair, or the
    best of each. So pairs are looked at once, and choices are made of pairs.
    """
    m = blocks.shape[1]
    one, other = torch.tensor(list(combinations(range(m), 2)), device=blocks.device).unbind(1)
    larger, both = torch.maximum(blocks[:, one], blocks[:, other]), blocks[:, one] + blocks[:, other]
    worth = []
    size = max(1, _CHUNK_ELEMENTS // (len(blocks) * blocks.shape[2]))
    for first, second in zip(*(torch.split(pair.to(blocks.device), size) for pair in _two_pairs(m))):
        if n == 1:
            kept = torch.maximum(larger[:, first], larger[:, second])
        else:
            kept = (larger[:, first] + larger[:, second]).maximum(both[:, first]).maximum(both[:, second])
        worth.append(kept.sum(2, dtype=torch.float64))
    return torch.cat(worth, dim=1)


@cache
def _four_columns(m: int) -> Tensor:
    return torch.tensor(list(combinations(range(m), KEPT_COLUMNS)))


@cache
def _two_pairs(m: int) -> tuple[Tensor, Tensor]:
    """For every choice of four columns, the number of its first two and of its last two among all pairs."""
    number = {pair: k for k, pair in enumerate(combinations(range(m), 2))}
    pairs = [(number[a, b], number[c, d]) for a, b, c, d in combinations(range(m), KEPT_COLUMNS)]
    first, second = torch.tensor(pairs).unbind(1)
    return first, second
