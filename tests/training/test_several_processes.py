"""Data-parallel training: two processes, the same channels, the same masks, the same weights."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

CODE = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
import sparselab as sl
rank, folder, saliency = int(sys.argv[1]), *sys.argv[2:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
wrapped = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW(wrapped.parameters(), 0.01)
# Each rank has other data: masks must not depend on them.
torch.manual_seed(100 + rank)
if saliency != "magnitude":
    saliency = sl.saliency.collect_activations(wrapped, [torch.randn(8, 16)]).saliency(saliency)
sparsifier = sl.Sparsifier(
    wrapped, "2:4", saliency=saliency, schedule="recompute,3", example_inputs=torch.randn(4, 16)
)
sparsifier.attach(optimizer)
sparsifier.compute()
masks = []
for _ in range(6):
    optimizer.zero_grad()
    wrapped(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
    assert sparsifier.enabled
    masks.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
moved = len(sparsifier.permutation_report.plan)
weights = {name: p.detach() for name, p in model.named_parameters()}
dist.barrier()
torch.save({"masks": masks, "weights": weights, "moved": moved}, f"{folder}/{rank}.pt")
# Past the interpreter's end: there, once in a hundred runs, a thread of gloo aborts the process.
os._exit(0)
"""


@pytest.mark.parametrize("saliency", ["magnitude", "ria"])
def test_masks_are_identical_on_all_ranks(saliency, tmp_path):
    workers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(CODE), str(rank), str(tmp_path), saliency])
        for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["moved"] == second["moved"] > 0
    for mine, theirs in zip(first["masks"], second["masks"]):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
