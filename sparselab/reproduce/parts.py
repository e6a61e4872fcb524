"""Which parts there are, and running them into one report."""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sparselab.core.registry import unknown_name
from sparselab.reproduce.section import Section, Settings, markdown_table, replace_file

PARTS: Mapping[str, str] = {
    "layers": "sparselab.reproduce.layers",
    "network": "sparselab.reproduce.network",
    "search": "sparselab.reproduce.search",
    "listing": "sparselab.reproduce.listing",
    "table1": "sparselab.reproduce.table1",
    "table2": "sparselab.reproduce.table2",
    "table3": "sparselab.reproduce.table3",
    "figure3": "sparselab.reproduce.figure3",
    "figure4": "sparselab.reproduce.figure4",
    "whitepaper": "sparselab.reproduce.whitepaper",
    "beyond": "sparselab.reproduce.beyond",
    "architectures": "sparselab.reproduce.architectures",
    "transformers": "sparselab.reproduce.transformers",
    "schedules": "sparselab.reproduce.schedules",
    "llm": "sparselab.reproduce.llm",
}
"""Every part by name, in the order of the report; each module has ``run(settings) -> Section``."""

STORE = "trials.sqlite"
RUNS = "runs.csv"


def reproduce(name: str, out: str | Path, settings: Settings | None = None) -> Path:
    """Run one part, or ``"all"``, into the folder ``out``; returns the path of the report.

    Each part's files are written as soon as it is done, and the report is put together from all
    parts that are there, so nothing is lost when a later one is stopped. With ``full`` trials are
    kept in ``trials.sqlite`` there (unless ``settings`` names another store), and a later call goes
    on from it; quick ones are run anew. Raises ``ValueError`` for an unknown name, listing the
    valid ones, and for a device that cannot be used, before any work is done.
    """
    settings = settings or Settings()
    if name != "all" and name not in PARTS:
        raise unknown_name("part to reproduce", name, ["all", *PARTS])
    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ValueError(f"device {settings.device!r} cannot be used: {error}; cpu always can") from error
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if settings.store is None:  # quick: of this call only, so that parts share trials and nothing is stale
            settings = replace(settings, store=(folder if settings.full else Path(scratch)) / STORE)
        for part in PARTS if name == "all" else [name]:
            _run_part(part, folder, settings)
    return folder / "report.md"


def _run_part(part: str, folder: Path, settings: Settings) -> None:
    start = time.perf_counter()
    section: Section = importlib.import_module(PARTS[part]).run(settings)
    section.write(folder, part)
    seconds = time.perf_counter() - start
    if settings.full:  # what an earlier run did, and this one found in the store, counts too
        seconds = max(seconds, section.trial_seconds)
    _note_run(folder, part, settings.full, seconds)
    _write_report(folder)
    if settings.progress:
        print(f"{part}: {seconds:.1f} s")  # noqa: T201


def _note_run(folder: Path, part: str, full: bool, seconds: float) -> None:
    """Keep how and when each part that the report holds was run."""
    row = {
        "part": part,
        "form": "full" if full else "quick",
        "seconds": round(seconds, 1),
        "date": time.strftime("%Y-%m-%d"),
        "sparselab": version("sparselab"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    file = folder / RUNS
    before: list[dict[Any, Any]] = pd.read_csv(file).to_dict("records") if file.exists() else []
    noted = {run["part"]: run for run in before} | {part: row}
    runs = pd.DataFrame([noted[name] for name in PARTS if name in noted])
    replace_file(file, runs.to_csv(index=False))


def _write_report(folder: Path) -> None:
    sections = [(folder / f"{part}.md").read_text() for part in PARTS if (folder / f"{part}.md").exists()]
    runs = pd.read_csv(folder / RUNS)
    total = f"{runs['seconds'].sum() / 60:.1f} minutes of work in all"
    about = (
        f"Measured by sparselab with Python {platform.python_version()} on {platform.machine()} {platform.system()}, "
        f"{os.cpu_count()} cores; when, in which form and how long is at the end ({total}). Every number was measured here unless it "
        "says otherwise."
    )
    end = f"## What was run\n\n{total[0].upper()}{total[1:]}, parts resumed from the store included.\n\n{markdown_table(runs, {'seconds': '.1f'})}\n"
    report = "\n".join(["# What N:M sparsity does to a network", "", about, "", *sections, end])
    replace_file(folder / "report.md", report)
