"""A checkpoint in several files: which they are, and their tensors with one file in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sparselab.core.tensor_files import Safetensors, read_file, readable


def is_index(path: Path) -> bool:
    """Whether ``path`` is the index of a sharded checkpoint, by its name."""
    return path.name.endswith(".index.json")


def sharded(index: Path) -> Shards:
    """The checkpoint that ``index`` (``*.safetensors.index.json``, ``*.bin.index.json``) describes.

    Raises ``ValueError``, before any tensor is read, for an index that is none, files that are not
    there, and tensors that the index names and the files do not hold.
    """
    where = _weight_map(index)
    files = sorted({index.parent / file for file in where.values()})
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(files)} files that {index} names are not there: {_some(missing)}. "
            "Fetch them, or check the files that are there one by one"
        )
    shards = Shards(index, files)
    if absent := sorted(set(where) - set(shards)):
        raise ValueError(
            f"{index} names {len(absent)} tensors that its files do not hold: {_some(absent)}. "
            "Index and files are not of one checkpoint, or a download broke off"
        )
    return shards


def _weight_map(index: Path) -> dict[str, str]:
    try:
        where = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError):
        where = None
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise ValueError(
            f"{index} is not the index of a sharded checkpoint: it has to be JSON with a 'weight_map' "
            "from the names of tensors to those of files"
        )
    return where


class Shards(Mapping[str, Any]):
    """The tensors of several files by name; one file at most is open, and tensors are not kept.

    Names come file by file, so that reading them in order opens each file once. Raises
    ``ValueError`` for a tensor that is in two files.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self._where: dict[str, Path] = {}
        for file in files:
            for name in _names_in(file):
                if name in self._where:
                    raise ValueError(f"{name!r} is in both {self._where[name].name} and {file.name} of {path}")
                self._where[name] = file
        self._open: tuple[Path, Mapping[str, Any]] | None = None

    def __getitem__(self, name: str) -> Any:
        file = self._where[name]
        if self._open is None or self._open[0] != file:
            self._open = None  # the file before goes out of memory before the next comes in
            self._open = (file, read_file(file))
        return self._open[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _names_in(file: Path) -> list[str]:
    """The names of the tensors in a shard, without reading them."""
    with readable(file):
        held: Any = (
            Safetensors(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="meta", weights_only=True)
        )
    if not isinstance(held, Mapping):
        raise ValueError(f"{file} holds a {type(held).__name__}, not a state dict")
    return [str(name) for name in held]


# In the order in which transformers looks for them.
_KINDS = ("*.safetensors.index.json", "*.safetensors", "*.bin.index.json", "pytorch_model*.bin")
_SHARD = re.compile(r".*-\d+-of-\d+\.\w+")
_MAIN = re.compile(r"(model|pytorch_model|diffusion_pytorch_model)\.[a-z.]+")


def checkpoint_in(folder: Path) -> Path:
    """The index or file of the checkpoint in ``folder``, looked for as ``transformers`` does.

    An index of safetensors, a ``.safetensors`` file, an index of ``.bin`` files, a
    ``pytorch_model.bin``: the first kind that is there. Raises ``ValueError`` where there is none,
    or several of a kind and none is called ``model``.
    """
    for kind in _KINDS:
        found = sorted(folder.glob(kind))
        main = [file for file in found if _MAIN.fullmatch(file.name)]
        if parts := [file.name for file in found if _SHARD.fullmatch(file.name)]:
            raise ValueError(
                f"{folder} holds {len(parts)} shards of a checkpoint without their index (*.index.json), "
                f"which says what belongs to it: {_some(parts)}. Fetch it, or give the path of one shard"
            )
        if len(found) == 1 or len(main) == 1:
            return (main or found)[0]
        if found:
            raise ValueError(
                f"{folder} holds {len(found)} files that could be its checkpoint: "
                f"{_some([file.name for file in found])}. Give the path of one, or of an index (*.index.json)"
            )
    if (folder / ".metadata").is_file():
        raise ValueError(
            f"{folder} is a checkpoint of torch.distributed, whose index is a pickle: turn it into a file by "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and give that"
        )
    raise ValueError(f"no checkpoint in the folder {folder}: looked for {', '.join(_KINDS)}")


def _some(names: list[str]) -> str:
    """The first of ``names``, and that there are more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
