"""Which parts there are, and running them into one report."""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from sparselab.reproduce.section import Section, Settings
from sparselab.specs import unknown_name

PARTS: Mapping[str, str] = {
    "layers": "sparselab.reproduce.layers",
    "network": "sparselab.reproduce.network",
    "search": "sparselab.reproduce.search",
    "pictures": "sparselab.reproduce.pictures",
    "finetune": "sparselab.reproduce.finetune",
    "transformers": "sparselab.reproduce.transformers",
    "schedules": "sparselab.reproduce.schedules",
}
"""Every part by name, in the order of the report; each module has ``run(settings) -> Section``."""


def reproduce(name: str, out: str | Path, settings: Settings | None = None) -> Path:
    """Run one part, or ``"all"``, into the folder ``out``; returns the path of the report.

    Each part's files are written as soon as it is done, and the report is put together from all parts that are there,
    so nothing is lost when a later one is stopped. Raises ``ValueError`` for an unknown name, listing the valid ones,
    before any work is done.
    """
    settings = settings or Settings()
    if name != "all" and name not in PARTS:
        raise unknown_name("part to reproduce", name, ["all", *PARTS])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS if name == "all" else [name]:
        start = time.perf_counter()
        section: Section = importlib.import_module(PARTS[part]).run(settings)
        section.write(folder, part)
        _write_report(folder)
        if settings.progress:
            print(f"{part}: {time.perf_counter() - start:.1f} s")  # noqa: T201
    return folder / "report.md"


def _write_report(folder: Path) -> None:
    sections = [(folder / f"{part}.md").read_text() for part in PARTS if (folder / f"{part}.md").exists()]
    about = (
        f"Measured by sparselab {version('sparselab')} with torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads on {platform.machine()} {platform.system()}, on {time.strftime('%Y-%m-%d')}. "
        "Every number on this page was measured in this run unless it says otherwise."
    )
    report = "\n".join(["# What N:M sparsity does to a network", "", about, "", *sections])
    (folder / "report.md").write_text(report, encoding="utf-8")
