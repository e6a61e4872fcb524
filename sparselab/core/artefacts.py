"""A model that ``save`` wrote: what its manifest says, and its tensors, read one at a time once all is known to be whole."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparselab.core.compressed import Grid, mask_of, restored
from sparselab.core.tensor_files import Safetensors, TensorFile, readable

MANIFEST = "sparselab.json"
FORMAT, VERSION = "sparselab.artefact", 2
VALUES, PLACES = ".values", ".places"
"""What follows the name of a weight in the names of its two parts."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a model, under all ``names`` that it has there.

    It is called ``key`` in ``file``. Where ``grid`` is given, the file has its kept values and
    their places.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    file: str
    key: str
    grid: Grid | None = None

    @property
    def form(self) -> str:
        """``"dense"`` or ``"compressed"``."""
        return "dense" if self.grid is None else "compressed"

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        held = {"names": list(self.names), "shape": list(self.shape), "dtype": self.dtype}
        held |= {"file": self.file, "key": self.key}
        grid = self.grid
        return held if grid is None else {**held, "n": grid.n, "m": grid.m, "channel_dim": grid.channel_dim}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Entry:
        """What ``to_json`` wrote."""
        shape = tuple(held["shape"])
        grid = Grid(shape, held["n"], held["m"], held["channel_dim"]) if "n" in held else None
        return cls(tuple(held["names"]), shape, held["dtype"], held["file"], held["key"], grid)


def is_artefact(path: Path) -> bool:
    """Whether ``path`` is a folder that ``save`` wrote."""
    return (path / MANIFEST).is_file()


def sealed(content: Mapping[str, Any]) -> str:
    """``content`` as the text of a manifest, with its digest. Raises ``TypeError`` for what is not JSON."""
    content = json.loads(json.dumps(content, allow_nan=False))  # as it will be read: texts for keys, lists for tuples
    return json.dumps({"digest": _digest(content), **content}, indent=1, allow_nan=False) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest in ``folder`` says.

    Raises ``ValueError`` where there is none, it is of a version that this release does not read,
    or it is not what was written.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise ValueError(f"{folder} holds no {MANIFEST}: it has to be a folder that sl.save(model, folder) wrote")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of UTF-8 and of JSON
        raise ValueError(f"{file} is damaged, fetch it again: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} is not of sl.save, or damaged: its format is not {FORMAT!r}")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{file} is of version {content.get('version')!r}, and this release of sparselab reads version {VERSION}"
        )
    if content.pop("digest", None) != _digest(content):
        raise ValueError(f"{file} is damaged, fetch it again: its content does not have the digest that it names")
    return content


class Artefact(TensorFile):
    """The tensors in a ``folder`` that ``save`` wrote, under every name that they have in the model.

    Each is read from its file, and made dense again, when it is asked for. Raises ``ValueError``,
    before any is read, for a file that is missing or is not what was written, and for a manifest
    that is not (``read_manifest``).
    """

    def __init__(self, folder: Path) -> None:
        self.content = read_manifest(folder)
        self.entries = [Entry.from_json(held) for held in self.content["tensors"]]
        for name, of in {**self.content["files"], **self.content["beside"]}.items():
            _require_whole(folder / name, of["bytes"], of["sha256"])
        self._entry_of = {name: entry for entry in self.entries for name in entry.names}
        with readable(folder):
            self._files = {name: Safetensors(folder / name) for name in self.content["files"]}
        super().__init__(folder, list(self._entry_of))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._entry_of:
            raise KeyError(name)
        return self._tensor(name)  # the files say themselves what is wrong with them

    def _tensor(self, name: str) -> Tensor:
        entry = self._entry_of[name]
        file = self._files[entry.file]
        if entry.grid is None:
            return file[entry.key]
        return restored(file[entry.key + VALUES], file[entry.key + PLACES], entry.grid)

    @property
    def masked(self) -> list[str]:
        """The names of the weights whose masks are known, in the order of the tensors."""
        stored = self.content["masks"]
        return [entry.names[0] for entry in self.entries if entry.names[0] in stored or entry.grid is not None]

    def mask(self, name: str) -> Tensor:
        """The mask of a weight that is ``masked``: bool, of its shape."""
        entry = self._entry_of[name]
        if (file := self.content["masks"].get(name)) is not None:
            count = math.prod(entry.shape)
            bits = np.unpackbits(self._files[file][name].numpy(), count=count, bitorder="little")
            return torch.from_numpy(bits.astype(bool)).reshape(entry.shape)
        assert entry.grid is not None
        return mask_of(self._files[entry.file][entry.key + PLACES], entry.grid)


def _require_whole(file: Path, size: int, digest: str) -> None:
    """Raise ``ValueError`` where ``file`` is not of ``size`` bytes that have this ``digest``."""
    if not file.is_file():
        raise ValueError(f"{file} is not there, and {MANIFEST} beside it names it: fetch it again")
    if (found := file.stat().st_size) != size:
        raise ValueError(f"{file} has {found} bytes of {size}: a copy or a download broke off, fetch it again")
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
            raise ValueError(f"{file} is damaged: its bytes are not those that were written, fetch it again")
