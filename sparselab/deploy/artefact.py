"""What is known of a model that was saved, beside its tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sparselab.core import artefacts
from sparselab.core.compressed import Grid
from sparselab.network.plan import Plan

COLUMNS = ["tensor", "shape", "dtype", "form", "bytes", "dense_bytes"]
CHECKED = ["layer", "density", "violations", "is_sparse", "kernel", "reason"]


@dataclass(frozen=True, eq=False)
class Artefact:
    """A saved model: what was said of it when it was saved, and where its tensors are.

    ``pattern`` is that of ``verdict``, which has one row for every weight, with the columns
    ``layer, density, violations, is_sparse, kernel, reason`` of ``sl.check``. ``plan`` is the order
    of the channels, ``protocol`` how it was pruned, ``recipe`` how it was trained, as far as they
    were given. ``frame`` has one row for every tensor: ``tensor, shape, dtype, form, bytes,
    dense_bytes``. ``bytes`` is the size of all files that hold tensors.
    """

    folder: Path
    form: str
    pattern: str | None
    verdict: pd.DataFrame
    plan: Plan | None
    protocol: Mapping[str, Any] | None
    recipe: Mapping[str, Any] | None
    frame: pd.DataFrame
    bytes: int

    @classmethod
    def read(cls, folder: str | Path) -> Artefact:
        """What the manifest in ``folder`` says; tensors are not read.

        Raises ``ValueError`` for a folder without one, and for one that is damaged.
        """
        folder = Path(folder)
        content = artefacts.read_manifest(folder)
        plan = content["plan"]
        return cls(
            folder,
            content["form"],
            content["pattern"],
            pd.DataFrame(content["verdict"], columns=CHECKED),
            None if plan is None else Plan.from_json(plan),
            content["protocol"],
            content["recipe"],
            _frame([artefacts.Entry.from_json(held) for held in content["tensors"]]),
            sum(file["bytes"] for file in content["files"].values()),
        )

    def __repr__(self) -> str:
        return f"<Artefact: {self}>"

    def __str__(self) -> str:
        dense = int(self.frame["dense_bytes"].sum())
        share = f", {self.bytes / dense:.3f} of the {dense:,} that its tensors have dense" if dense else ""
        sparse = f"; {int(self.verdict['is_sparse'].sum())} of {len(self.verdict)} weights are {self.pattern}"
        return f"{self.folder}: {self.bytes:,} bytes{share}{sparse if self.pattern else ''}"


def _frame(entries: list[artefacts.Entry]) -> pd.DataFrame:
    rows = [
        (entry.names[0], entry.shape, entry.dtype, entry.form, stored_bytes(entry.dtype, entry.shape, entry.grid),
         stored_bytes(entry.dtype, entry.shape, None))
        for entry in entries
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def stored_bytes(dtype: str, shape: tuple[int, ...], grid: Grid | None) -> int:
    """The bytes that a tensor takes in a file."""
    import torch

    itemsize: int = getattr(torch, dtype).itemsize
    return math.prod(shape) * itemsize if grid is None else grid.values * itemsize + grid.place_bytes


def as_json(given: object, option: str) -> Any:
    """``given`` as JSON holds it: a mapping, or a dataclass, of plain values. Raises ``ValueError`` naming ``option``."""
    if given is None:
        return None
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        given = dataclasses.asdict(given)
    if not isinstance(given, Mapping):
        raise ValueError(f"{option} takes a mapping of texts and numbers, as report.protocol is; got {given!r}")
    try:
        return json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{option} has to be what JSON holds, texts, finite numbers, lists, mappings: {error}"
        ) from None
