"""Two processes with different seeds end with identical models."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sparselab.network.permuting import permute

from .helpers import outputs_of, randomised, relative_error
from .zoo import ZOO


def work(rank: int, folder: str) -> None:
    """On each rank: the same model (plain and wrapped), other inputs and another seed."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    digests = []
    for wrap in (lambda m: m, nn.parallel.DistributedDataParallel):
        model = wrap(randomised(ZOO["ResidualSqueezeExcite"].build().eval()))
        x = torch.randn(2, 3, 8, 8)
        before = outputs_of(model, x)
        report = permute(model, x, strategy="channel_swap", seed=rank)
        assert (report.frame["status"] == "permuted").any()
        assert relative_error(before, outputs_of(model, x)) < 1e-4
        digests += [hashlib.sha256(p.detach().numpy().tobytes()).hexdigest() for p in model.parameters()]
    broken = ZOO["linear_chain"].build()
    with pytest.raises((ValueError, RuntimeError), match="no_such"):
        permute(broken, torch.randn(2, 6), saliency="no_such")
    dist.barrier()
    Path(folder, f"rank{rank}").write_text("\n".join(digests))
    # Past the interpreter's end: there, once in a hundred runs, a thread of gloo aborts the process.
    os._exit(0)


@pytest.mark.slow
def test_all_ranks_end_identical(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    start = (
        f"import sys; sys.path.insert(0, {str(tests)!r}); from network.test_ranks import work; "
        f"work(%d, {str(tmp_path)!r})"
    )
    ranks = [
        subprocess.Popen([sys.executable, "-c", start % rank], stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    for process in ranks:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second
