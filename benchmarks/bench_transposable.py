"""Masks that are N:M both ways, of a 2048 x 2048 weight on the CPU: what each way keeps of the best, and its time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch

import sparselab as sl
from benchmarks.timing import seconds
from sparselab.ops.transposable import fast_blocks_torch

SIZE = 2048


def run(sizes: Sequence[tuple[int, int]] = ((2, 4), (2, 8), (4, 8), (8, 16), (16, 32))) -> pd.DataFrame:
    """A row a pattern and way; ``of best`` is in percent, ``ratio`` the time of the exact one over that of the row.

    What takes longer than a second is timed once: the exact one, above M = 4, needs a quarter of a minute.
    """
    weight = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return pd.concat([compared(weight, n, m) for n, m in sizes], ignore_index=True)


def compared(weight: torch.Tensor, n: int, m: int) -> pd.DataFrame:
    ways = {
        name: partial(sl.create_mask, weight, name)
        for name in (f"m{m}n{n}_2d_{w}" for w in ("best", "fast", "2approx"))
    }
    ways[f"m{m}n{n}_2d_fast, as on other devices"] = partial(fast_blocks_torch, weight, n, m)
    rows = []
    for name, way in ways.items():
        mask = way()
        first = seconds(way)
        time = first if first > 1 else statistics.median(seconds(way) for _ in range(7))
        kept = float(weight.abs()[mask].sum(dtype=torch.float64))
        rows.append((name, kept, 100 * (1 - float(mask.sum()) / (mask.numel() * n / m)), 1e3 * time))
    frame = pd.DataFrame(rows, columns=["pattern", "of best", "places left empty", "ms"])
    frame["of best"] *= 100 / frame["of best"][0]
    frame["ratio"] = frame["ms"][0] / frame["ms"]
    return frame
