"""The blocks that are done, in a folder: what it takes to go on after an interruption, whatever kind it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparselab.core.channel_order import ChannelOrder, from_json, to_json
from sparselab.network.plan import Plan

FORMAT = 1


@dataclass(frozen=True, eq=False)
class DoneBlock:
    """A pruned block: its weights before and after, by name, and what the frame says of them."""

    dense: Mapping[str, Tensor]
    pruned: Mapping[str, Tensor]
    rows: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Start:
    """The fingerprint of the ``model`` that was given, that of it once ``permuted``, and the plan that did it.

    ``own`` are the orders of those weights that have their own, by name.
    """

    model: str
    permuted: str
    plan: Plan
    own: Mapping[str, ChannelOrder] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockStore:
    """A ``folder`` with ``run.json`` (what is run), ``start.json`` (from where) and one file for each done block.

    A file is there whole or not at all. Nothing in it is ever unpickled.
    """

    folder: Path

    def open(self, run: Mapping[str, Any]) -> None:
        """Begin ``run``, or go on with it. Raises ``ValueError`` where the folder holds another."""
        file = self.folder / "run.json"
        if not file.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(
                    f"store={str(self.folder)!r} holds files that are not ours: name a new or an empty folder"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write("run.json", json.dumps({"format": FORMAT, **run}, indent=1))
            return
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is not ours: {error}") from error
        differ = [
            name
            for name in dict.fromkeys(["format", *run, *known])
            if {"format": FORMAT, **run}.get(name) != known.get(name)
        ]
        if differ:
            name = differ[0]
            raise ValueError(
                f"store={str(self.folder)!r} holds another run: its {name} is {known.get(name)!r}, here it is "
                f"{run.get(name)!r}; name another folder"
            )

    @property
    def start(self) -> Start | None:
        """From where blocks are pruned; ``None`` while that is not known."""
        file = self.folder / "start.json"
        if not file.exists():
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
        return Start(found["model"], found["permuted"], Plan.from_json(found["plan"]), from_json(found.get("own", {})))

    def save_start(self, start: Start) -> None:
        """Keep where pruning starts from."""
        found = {"model": start.model, "permuted": start.permuted, "plan": start.plan.to_json()}
        found |= {"own": to_json(start.own)} if start.own else {}
        self._write("start.json", json.dumps(found, separators=(",", ":")))

    def done(self) -> int:
        """How many blocks are done, from the first on."""
        number = 0
        while self._file(number).exists():
            number += 1
        return number

    def load(self, number: int) -> DoneBlock:
        """A done block."""
        found = torch.load(self._file(number), map_location="cpu", weights_only=True, mmap=True)
        return DoneBlock(found["dense"], found["pruned"], found["rows"])

    def save(self, number: int, block: DoneBlock) -> None:
        """Keep a block that is done."""
        partial = self._partial(self._file(number).name)
        torch.save({"dense": dict(block.dense), "pruned": dict(block.pruned), "rows": block.rows}, partial)
        partial.replace(self._file(number))

    def _file(self, number: int) -> Path:
        return self.folder / f"block-{number:04d}.pt"

    def _partial(self, name: str) -> Path:
        return self.folder / f".{name}.{os.getpid()}.partial"

    def _write(self, name: str, text: str) -> None:
        partial = self._partial(name)
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.folder / name)
