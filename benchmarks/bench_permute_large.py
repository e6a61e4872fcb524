"""``permute`` on a Llama of a billion parameters, random bfloat16 weights: the memory above the model, and the time.

In a process of its own (Linux: its peak is read from ``/proc``), after a small model of the same kind, so that code and compiled
kernels are loaded before the count begins.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from sparselab.network.search_problems import MAX_SCORES

TARGET = 1.3
"""Times the largest layer that may be held above the model, beside the tables of the search."""

TABLES_MB = 9 * MAX_SCORES / 2**20
"""What the search of the largest sample of an axis holds of it."""

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
"""glibc returns freed blocks above a megabyte at once, rather than learning to keep them: the peak is what is in use."""

LARGE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 32000}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 100}


def run() -> pd.DataFrame:
    """With memory given back as soon as it is free, with and without a check of the outputs, and as glibc does by itself."""
    ways = ((False, GIVES_BACK), ("own_dtype", GIVES_BACK), (False, {}))
    return pd.DataFrame([measured(verify, allocator) for verify, allocator in ways])


def measured(verify: bool | str, allocator: dict[str, str], strategy: str = "auto") -> dict[str, Any]:
    """The numbers of one run, in a fresh process with ``allocator`` among its environment."""
    command = [sys.executable, "-m", "benchmarks.bench_permute_large", json.dumps([verify, strategy])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **allocator})
    return {"gives_back": bool(allocator), **json.loads(done.stdout.splitlines()[-1])}


def work(verify: bool | str, strategy: str) -> dict[str, Any]:
    """Build, permute, and compare the peak with what was resident before."""
    import sparselab as sl

    ids = {"input_ids": torch.arange(16)[None] % 100}
    sl.permute(llama(SMALL), ids, "2:4", strategy=strategy, verify=verify)
    empty = resident_mb("VmRSS")
    model = llama(LARGE)
    ctypes.CDLL(None).malloc_trim(0)
    held = empty + sum(parameter.nbytes for parameter in model.parameters()) / 2**20
    largest = max(parameter.nbytes for parameter in model.parameters()) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    wall, cpu = time.perf_counter(), time.process_time()
    report = sl.permute(model, ids, "2:4", strategy=strategy, verify=verify)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    above = resident_mb("VmHWM") - held
    return {
        "verify": str(verify),
        "strategy": strategy,
        "parameters_1e9": sum(parameter.numel() for parameter in model.parameters()) / 1e9,
        "largest_layer_mb": largest,
        "peak_above_mb": above,
        "target_mb": TARGET * largest + TABLES_MB,
        "seconds": wall,
        "cpu_seconds": cpu,
        "search_seconds": float(report.frame["seconds"].sum()),
        "share_permuted": report.share_permuted,
        "retained_gain_percent": 100 * report.retained_gain,
        "max_rel_error": report.max_rel_error,
        "tolerance": report.tolerance,
    }


def llama(sizes: dict[str, int]) -> nn.Module:
    """A Llama with grouped queries, random bfloat16 weights, no cache among its outputs."""
    import transformers

    config = transformers.LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=8, use_cache=False)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model: nn.Module = transformers.LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # a fresh norm of ones would hide a forgotten move
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def resident_mb(what: str) -> float:
    """``VmRSS``, now, or ``VmHWM``, the peak."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[what].split()[0]) / 1024


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps(work(*json.loads(sys.argv[1]))))
