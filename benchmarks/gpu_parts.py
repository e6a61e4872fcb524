"""The parts of ``benchmarks.on_gpu``: each answers one question, in rows."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparselab as sl
from benchmarks import bench_gpu
from benchmarks.gpu_place import Place
from sparselab.reproduce import trained
from sparselab.reproduce.search import authors_matrix
from sparselab.reproduce.section import Settings
from sparselab.reproduce.table2 import full_comparisons
from sparselab.reproduce.trials import loaded_task, run_trials

ROOT = Path(__file__).parents[1]

TARGETS = (  # rows and channels, seconds, the efficacy to reach, on one H100 (docs/performance.md)
    (2048, 1.0, 13.8),
    (1024, 0.5, 18.5),
    (512, 0.3, 24.8),
    (4096, 5.0, None),
)
TSENOR = 0.12
"""Seconds for a transposable 8:16 mask of 8192 x 8192 on a GPU, as published (TSENOR, arXiv 2505.23949)."""

DIGITS = trained.Comparison("digits", 1, ("2:4",), dense_steps=20, steps=20)
TRAINED = ("dense_top1", "retained_percent", "one_shot_top1", "finetuned_top1", "seconds")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """What ``rows`` answer, and how many ``seconds`` they may take together."""

    name: str
    question: str
    seconds: float
    rows: Callable[[Place], Iterator[Row]]


def machine(place: Place) -> Iterator[Row]:
    """What it ran on."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,memory.total", "--format=csv,noheader"]
    known = "a CPU" if place.simulated else subprocess.run(query, capture_output=True, text=True, check=True).stdout
    versions = {name: _version(name) for name in ("torch", "cupy-cuda13x", "cupy-cuda12x", "transformers")}
    yield {
        "gpu": known.strip(),
        "cores": os.cpu_count(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def targets(place: Place) -> Iterator[Row]:
    """``auto`` with a time limit at the sizes that have targets, after one run that compiles."""
    strategy = place.size("auto", "channel_swap,1")  # groups of three take a CPU half a minute
    for size, limit, target in place.size(TARGETS, ((16, None, None),)):
        scores = authors_matrix(size, size)
        search = partial(sl.search_permutation, scores, strategy=strategy, backend="cuda")
        search(time_limit=1e-3)
        found = search(time_limit=limit)
        yield {
            "strategy": strategy,
            "size": size,
            "time_limit": limit,
            "seconds": found.seconds,
            "efficacy": found.efficacy,
            "target": target,
        }


def kernels(place: Place) -> Iterator[Row]:
    """The hot kernels beside the bounds that they run against."""
    yield from _records(bench_gpu.kernels(*place.size((2048, (16384, 8192)), (64, (64, 64))), str(place.torch_device)))


def moves(place: Place) -> Iterator[Row]:
    """What a move of annealed assignment takes, and its kernels' parts of it."""
    sizes, chains = place.size(((512, 1024, 2048, 4096), (2, 32)), ((32,), (2,)))
    yield from _records(bench_gpu.moves(sizes, chains, apart=not place.simulated))


def tests(place: Place) -> Iterator[Row]:
    """The tests marked ``gpu``, and a row for each that did not pass."""
    files = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        # The project's own options ask for plug-ins that a machine with a GPU need not have.
        own = ["-o", "addopts=--import-mode=importlib --strict-markers --continue-on-collection-errors"]
        command = [sys.executable, "-m", "pytest", *options, *own, *map(str, files)]
        subprocess.run(command, cwd=ROOT, check=False)
        if not report.exists():
            raise RuntimeError("pytest wrote no report: what it said is above")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found = Counter(_outcome(case) for case in cases)
    yield from (
        {"state": state, "tests": count, "which": which, "reason": reason}
        for (state, which, reason), count in sorted(found.items())
    )
    if {"failure", "error"} & {state for state, _, _ in found}:
        raise RuntimeError("some tests did not pass")


def _outcome(case: ElementTree.Element) -> tuple[str, str, str]:
    """How a test ended, its name where it did not pass, and why; the skipped are told apart by the reason alone."""
    for state in ("failure", "error", "skipped"):
        said = case.find(state)
        if said is not None:
            which = "" if state == "skipped" else f"{case.get('classname')}::{case.get('name')}"
            return state, which, str(said.get("message", ""))[:300]
    return "passed", "", ""


def transposable(place: Place) -> Iterator[Row]:
    """Masks that are N:M both ways, beside the published time of another way there."""
    size = place.size(8192, 64)
    weight = torch.randn(
        size, size, device=place.torch_device, generator=torch.Generator(place.torch_device).manual_seed(0)
    )
    for n, m in ((2, 4), (8, 16)):
        pattern = f"m{m}n{n}_2d_fast"
        taken = bench_gpu.seconds_each(partial(sl.create_mask, weight, pattern))
        published = TSENOR if (size, n) == (8192, 8) else None
        yield {"pattern": pattern, "size": size, "seconds": taken, "published": published}


def prune(place: Place) -> Iterator[Row]:
    """``sl.prune`` of a decoder with SmolLM2's shapes, block by block, on the GPU and on the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    blocks, width, inner, vocabulary, windows = place.size((30, 576, 1536, 49152, 16), (2, 36, 96, 64, 2))
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=vocabulary,
    )
    tokens = torch.Generator().manual_seed(1)
    batches = [{"input_ids": torch.randint(vocabulary, (1, 512), generator=tokens)} for _ in range(windows)]
    for pruner in ("wanda", "sparsegpt", "alps"):
        for device in (place.torch_device, torch.device("cpu")):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config).eval()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            report = sl.prune(model, batches, "2:4", pruner=pruner, device=str(device), progress=False)
            taken = time.perf_counter() - start
            memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
            error = report.frame["pruned_error_percent"].mean()
            yield {"pruner": pruner, "device": str(device), "seconds": taken, "error_percent": error, "gpu_gb": memory}


def kernels_of_torch(place: Place) -> Iterator[Row]:
    """Dense against PyTorch's 2:4 kernels, layer by layer, beside what ``forecast`` said."""
    if place.simulated:
        yield {"left_out": "these kernels are torch's own, and have no stand-in"}
        return
    for size in (1024, 4096):
        model = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        for tokens in (64, 2048, 16384):
            found = sl.benchmark(model, torch.randn(tokens, size), dtype=torch.float16)
            yield from ({"model": size, **row} for row in _records(found.frame))


def network(place: Place) -> Iterator[Row]:
    """All orders of EfficientNet-Lite0; left out where its package is missing."""
    names = bench_gpu.COLUMNS[2:]
    rows = [] if place.simulated else list(bench_gpu.network())
    yield from (dict(zip(names, row[2:], strict=True)) for row in rows)
    if not rows:
        yield {"left_out": "a CPU takes minutes" if place.simulated else "its package is not installed"}


def searches(place: Place) -> Iterator[Row]:
    """Every strategy at every size; and the reference tool's kernels, where SPARSELAB_APEX says where they are."""
    sizes = place.size((*bench_gpu.SQUARE, *bench_gpu.PAPER, *bench_gpu.TRANSFORMER), ())
    yield from (dict(zip(bench_gpu.COLUMNS, row, strict=True)) for row in bench_gpu.searches(sizes, ("cuda",)))
    if not sizes:
        yield {"left_out": "the part 'targets' tries the same"}


def training(place: Place) -> Iterator[Row]:
    """Table 2 (c) in its full form, seed by seed; on digits where CIFAR-10 is not at hand, or a CPU stands in."""
    device = str(place.torch_device)
    comparison = place.size(full_comparisons(device)[-1], DIGITS)
    try:
        loaded_task(comparison.task)
    except FileNotFoundError as error:
        yield {"left_out": f"{error}; digits stand in"}
        comparison = DIGITS
    for case in comparison.cases(device):
        found = run_trials(trained.trial, Settings(full=True, progress=False, device=device), trials=[case])
        yield from _records(found[["name", "pattern", "channels", "seed", *TRAINED]])


def _records(frame: Any) -> Iterator[Row]:
    yield from frame.to_dict("records")


PARTS: Mapping[str, Part] = {
    name: Part(name, question, seconds, rows)
    for name, question, seconds, rows in (
        ("machine", "What is it?", 20, machine),
        ("targets", "Does `auto` reach its targets?", 60, targets),
        ("tests", "Do the tests pass that need a GPU?", 120, tests),
        ("kernels", "How near are the kernels to their bounds?", 30, kernels),
        ("moves", "What does a move of annealed assignment take?", 45, moves),
        ("transposable", "How long do masks take that are N:M both ways?", 20, transposable),
        ("prune", "How long does a decoder of 135 M parameters take?", 120, prune),
        ("sparse", "What do 2:4 layers gain, and what was forecast?", 60, kernels_of_torch),
        ("network", "How long does EfficientNet-Lite0 take?", 30, network),
        ("searches", "What does every strategy find, and how fast?", 90, searches),
        ("training", "What does permuting gain after training on CIFAR-10?", 240, training),
    )
}
"""By name, those first whose answers are worth most."""
