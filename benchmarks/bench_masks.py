"""Masks of a 4096 x 4096 weight on the CPU, beside the usual ways to compute them."""

from __future__ import annotations

import itertools
import statistics
from functools import partial

import pandas as pd
import torch

import sparselab as sl
from benchmarks.timing import paired, seconds
from sparselab.ops.masks import top_n_of_m_torch

SIZE = 4096


def by_enumeration(weight: torch.Tensor) -> torch.Tensor:
    """ASP's method: score the six choices of 2 of 4 by one product, take the best into a mask of 32-bit integers."""
    kept = [[float(i in pair) for i in range(4)] for pair in itertools.combinations(range(4), 2)]
    choices = torch.tensor(kept)
    mask = torch.ones(weight.shape, dtype=torch.int32).view(-1, 4)
    mask[:] = choices[(weight.view(-1, 4).abs() @ choices.T).argmax(1)]
    return mask.view(weight.shape)


def by_topk(weight: torch.Tensor, n: int = 2, m: int = 4) -> torch.Tensor:
    best = weight.abs().float().view(-1, m).topk(n).indices
    return torch.zeros(weight.numel() // m, m, dtype=torch.bool).scatter_(1, best, True).view(weight.shape)


def greedy_loop(weight: torch.Tensor) -> torch.Tensor:
    """A Python loop over 4 x 4 blocks and their entries by falling magnitude, as ASP's 2d greedy is written."""
    matrix = weight.abs().numpy()
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for top in range(0, len(matrix), 4):
        for left in range(0, matrix.shape[1], 4):
            block = matrix[top : top + 4, left : left + 4]
            rows, columns = [0] * 4, [0] * 4
            for flat in block.argsort(axis=None)[::-1]:
                row, column = divmod(int(flat), 4)
                if rows[row] < 2 and columns[column] < 2:
                    rows[row] += 1
                    columns[column] += 1
                    mask[top + row, left + column] = True
    return mask


def run() -> pd.DataFrame:
    """A row a comparison; ``target`` is the ratio to reach."""
    weight = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ours = partial(sl.create_mask, weight)
    comparisons = [("2:4 float32", partial(ours, "2:4"), "enumeration, as ASP", partial(by_enumeration, weight), 30)]
    for n, m in ((2, 4), (1, 4), (4, 8), (8, 16), (16, 32), (1, 32), (32, 64)):
        name = f"{n}:{m} float32"
        comparisons.append((name, partial(ours, f"{n}:{m}"), "torch.topk", partial(by_topk, weight, n, m), 1))
        elsewhere = partial(top_n_of_m_torch, weight, n, m)
        comparisons.append((f"{name}, as on other devices", elsewhere, "torch.topk", partial(by_topk, weight, n, m), 1))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        name = f"2:4 {str(dtype).removeprefix('torch.')}"
        other = weight.to(dtype)
        comparisons.append((name, partial(sl.create_mask, other, "2:4"), "torch.topk", partial(by_topk, other), 1))
    rowwise = partial(by_topk, weight, SIZE // 2, SIZE)
    comparisons.append(("row,0.5 float32", partial(ours, "row,0.5"), "torch.topk", rowwise, 1))
    rows = []
    for name, work, peer, other_work, target in comparisons:
        ours_s, peer_s, ratio = paired(work, other_work)
        rows.append((name, peer, 1e3 * ours_s, 1e3 * peer_s, ratio, target))
    rows.append(greedy_row(weight))
    return pd.DataFrame(rows, columns=["ours", "peer", "ours ms", "peer ms", "ratio", "target"])


def greedy_row(weight: torch.Tensor) -> tuple[str, str, float, float, float, float]:
    """The loop takes half a minute at full size: it is timed on a 64th of the weight and scaled up."""
    part = weight[:512, :512].contiguous()
    assert torch.equal(sl.create_mask(part, "m4n2_2d_greedy"), greedy_loop(part))
    greedy_s = statistics.median(seconds(lambda: sl.create_mask(weight, "m4n2_2d_greedy")) for _ in range(5))
    loop_s = (SIZE / 512) ** 2 * statistics.median(seconds(lambda: greedy_loop(part)) for _ in range(3))
    return "m4n2_2d_greedy", "Python loop (from 512 x 512)", 1e3 * greedy_s, 1e3 * loop_s, loop_s / greedy_s, 100
