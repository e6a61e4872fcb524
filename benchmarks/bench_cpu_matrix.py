"""A 2:4 float32 matrix times one vector on the CPU, on one thread, beside ``torch.nn.functional.linear``."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

import sparselab as sl
from benchmarks.cpu_matrix import TwoOfFour
from benchmarks.timing import paired

SHAPES = [(576, 576), (1536, 576), (4096, 4096), (11008, 4096)]


def run() -> pd.DataFrame:
    """Seconds by shape, and how many times as fast as the dense product."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for outputs, channels in SHAPES:
        weight = torch.randn(outputs, channels)
        weight *= sl.create_mask(weight, "2:4")
        packed, vector = TwoOfFour.of(weight), torch.randn(channels)
        ours, dense, ratio = paired(
            partial(packed.__matmul__, vector), partial(torch.nn.functional.linear, vector[None], weight), pairs=31
        )
        rows.append((f"{outputs} x {channels}", 1e6 * ours, 1e6 * dense, ratio))
    torch.set_num_threads(threads)
    return pd.DataFrame(rows, columns=["shape", "ours_us", "dense_us", "times_as_fast"])
