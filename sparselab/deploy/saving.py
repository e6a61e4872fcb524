"""``save``: a model as files that arrive."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sparselab._version import __version__
from sparselab.core.artefacts import FORMAT, MANIFEST, PLACES, VALUES, VERSION, Entry, sealed
from sparselab.core.compressed import Grid, mask_of
from sparselab.core.layers import Custom, layer_weights
from sparselab.core.models import as_eager, unwrap
from sparselab.core.paths import as_path
from sparselab.core.registry import unknown_name
from sparselab.core.tensor_files import Safetensors, readable
from sparselab.deploy.artefact import CHECKED, Artefact, as_json, stored_bytes
from sparselab.deploy.compressing import kept_places, kept_values
from sparselab.deploy.held import Held, held_tensors, masks_of, require_masked
from sparselab.deploy.tensor_writer import Planned, Written, write_safetensors
from sparselab.masks import AnyPattern, MaskCalculator, calculator
from sparselab.network.plan import Plan
from sparselab.reports import check

FORMS = ("dense", "compressed")
MASKS = "masks.safetensors"


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    form: str = "dense",
    pattern: AnyPattern | None = "2:4",
    plan: Plan | None = None,
    protocol: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    custom: Custom | None = None,
    shard_bytes: int = 5 * 10**9,
) -> Artefact:
    """Write ``model`` into the new ``folder``, with what has to be known about it; ``load_into`` reads it back.

    Into ``folder`` go safetensors (in several files, where one would have more than
    ``shard_bytes``) and ``sparselab.json``: every tensor with its names, shape and dtype, the
    verdict of ``check`` for ``pattern``, ``plan`` (the order of the channels), ``protocol`` (how it
    was pruned, ``report.protocol`` of ``prune``) and ``recipe`` (how it was trained), and the
    digest of every file.

    ``form="dense"``: tensors as they are, zeros too. A model of ``transformers`` is written by its
    ``save_pretrained``, so that anything reads it without sparselab; the masks are beside it, one
    bit for each weight. ``form="compressed"``: of every weight that follows ``pattern``, any N:M,
    the kept values and their places, 2 bits each at 2:4; the rest as it is. At 2:4 that is 0.5625
    of the weights' size in half precision. Of a model of ``transformers`` the configuration is
    beside it. What comes back is the same bit for bit, but that every value that is not kept comes
    back as +0 (masks leave -0 as well). ``custom`` as in ``check``.

    The weights are written as they are in memory, so masks have to be applied. ``pattern=None``
    judges and compresses nothing. Never more than one tensor at a time is copied. The folder is
    there whole or not at all. Deterministic, but for what ``save_pretrained`` writes.

    Raises ``ValueError``, before anything is written, for a folder that is not empty, weights that
    are not there or not plain tensors, dense values under masks, a state dict with entries that
    are no tensors of the modules, and where ``check`` does.

    >>> import tempfile, torch
    >>> model = torch.nn.Linear(64, 64, bias=False).half()
    >>> with torch.no_grad(): _ = model.weight.mul_(torch.tensor([1, 0, 0, 1]).repeat(16))
    >>> folder = tempfile.mkdtemp()
    >>> save(model, folder, form="compressed").frame[["tensor", "form", "bytes", "dense_bytes"]].to_dict("records")
    [{'tensor': 'weight', 'form': 'compressed', 'bytes': 4608, 'dense_bytes': 8192}]
    """
    if form not in FORMS:
        raise unknown_name("form", str(form), FORMS)
    if not isinstance(shard_bytes, int) or shard_bytes < 1:
        raise ValueError(f"shard_bytes={shard_bytes!r}: a file has to hold at least one byte")
    if plan is not None and not isinstance(plan, Plan):
        raise ValueError(f"plan takes a sl.Plan, as report.plan of permute is; got a {type(plan).__name__}")
    folder = as_path(folder, "save")
    _require_new(folder)
    model = unwrap(as_eager(model, "save"))
    held = held_tensors(model, "save")
    masks = masks_of(model)
    require_masked({name: each.tensor for each in held for name in each.names}, masks, "save")
    calculate = None if pattern is None else calculator(pattern)
    verdict = pd.DataFrame(columns=CHECKED) if calculate is None else check(model, calculate, custom=custom)
    grids = {} if calculate is None else _grids(model, calculate, verdict, custom)
    content = {
        "form": form,
        "pattern": None if calculate is None else str(calculate),
        "verdict": json.loads(verdict[CHECKED].to_json(orient="records", double_precision=15)),
        "plan": None if plan is None else plan.to_json(),
        "protocol": as_json(protocol, "protocol"),
        "recipe": as_json(recipe, "recipe"),
    }
    with _new_folder(folder) as into:
        writer = _Writer(into, shard_bytes)
        if form == "dense":
            writer.write_dense(model, held)
            writer.write_masks({**_non_zeros(held, grids), **{name: mask.detach for name, mask in masks.items()}})
        else:
            writer.write_compressed(model, held, grids)
            writer.write_masks(_not_in_places(held, grids, masks))
        writer.close({"format": FORMAT, "version": VERSION, "sparselab": __version__, **content})
    return Artefact.read(folder)


def _grids(
    model: nn.Module, calculate: MaskCalculator, verdict: pd.DataFrame, custom: Custom | None
) -> dict[str, Grid]:
    """The weights that follow the pattern and have something to leave out, by name."""
    if calculate.nm is None:
        return {}
    follow = set(verdict[verdict["is_sparse"]]["layer"])
    found = {
        layer.name: Grid(tuple(layer.weight.shape), *calculate.nm, layer.channel_dim)
        for layer in layer_weights(model, custom)
        if layer.name in follow
    }
    return {name: grid for name, grid in found.items() if grid.channels > grid.n < grid.m}


def _grid_of(held: Held, grids: Mapping[str, Grid]) -> Grid | None:
    """The grid of a tensor that is smaller compressed."""
    grid = next((grids[name] for name in held.names if name in grids), None)
    sizes = (_bytes_of(held, grid), _bytes_of(held, None))
    return grid if sizes[0] < sizes[1] else None


def _bytes_of(held: Held, grid: Grid | None) -> int:
    return stored_bytes(_dtype(held.tensor), tuple(held.tensor.shape), grid)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


Masks = Mapping[str, Callable[[], Tensor]]
"""By the name of a weight, what gives its mask."""


def _non_zeros(held: Sequence[Held], grids: Mapping[str, Grid]) -> dict[str, Callable[[], Tensor]]:
    """The masks of weights that follow the pattern, as their values tell them."""
    return {
        each.names[0]: partial(torch.ne, each.tensor.detach(), 0)
        for each in held
        if any(name in grids for name in each.names)
    }


def _not_in_places(
    held: Sequence[Held], grids: Mapping[str, Grid], masks: Mapping[str, Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """The masks that are not what the places of the compressed weights say already."""
    found: dict[str, Callable[[], Tensor]] = {}
    for each in held:
        mask = next((masks[name] for name in each.names if name in masks), None)
        if mask is None:
            continue
        grid = _grid_of(each, grids)
        if grid is None or not torch.equal(mask_of(kept_places(each.tensor, grid), grid), mask.cpu()):
            found[each.names[0]] = mask.detach
    return found


class _Writer:
    """What is written into ``folder``, and what the manifest will say of it."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.files: dict[str, Written] = {}
        self.entries: list[Entry] = []
        self.masks: dict[str, str] = {}

    def write_dense(self, model: nn.Module, held: Sequence[Held]) -> None:
        """Every tensor as it is: by ``save_pretrained`` where there is one, and by ourselves what that leaves out."""
        if not _is_pretrained(model):
            self._write("model", [(each, None) for each in held])
            return
        model.save_pretrained(self.folder, max_shard_size=self.shard_bytes)  # type: ignore[operator]
        files = sorted(self.folder.glob("*.safetensors"))
        there = {name: file for file in files for name in _names_in(file)}
        missing = []
        for each in held:
            key = next((name for name in each.names if name in there and _holds(there[name], name, each.tensor)), None)
            if key is None:
                missing.append(each)
            else:
                self._enter(each, None, there[key].name, key)
        used = {entry.file for entry in self.entries}
        self.files |= {file.name: _written(file) for file in files if file.name in used}
        self._write("sparselab", [(each, None) for each in missing])

    def write_compressed(self, model: nn.Module, held: Sequence[Held], grids: Mapping[str, Grid]) -> None:
        """Weights that have a grid as values and places, the rest as it is."""
        if _is_pretrained(model):
            for config in (getattr(model, name, None) for name in ("config", "generation_config")):
                if config is not None:
                    config.save_pretrained(self.folder)
        self._write("compressed", [(each, _grid_of(each, grids)) for each in held])

    def write_masks(self, masks: Masks) -> None:
        """Masks, one bit for each weight."""
        if masks:
            shapes = {name: tuple(entry.shape) for entry in self.entries for name in entry.names}
            planned = [
                Planned(name, torch.uint8, (-(-math.prod(shapes[name]) // 8),), partial(_bits, make))
                for name, make in masks.items()
            ]
            self.files[MASKS] = write_safetensors(self.folder / MASKS, planned)
            self.masks = dict.fromkeys(masks, MASKS)

    def close(self, content: Mapping[str, Any]) -> None:
        """Write the manifest: with it, the artefact is whole."""
        files = {name: dataclasses.asdict(written) for name, written in self.files.items()}
        others = sorted(file for file in self.folder.rglob("*") if file.is_file() and file.name not in files)
        beside = {file.relative_to(self.folder).as_posix(): dataclasses.asdict(_written(file)) for file in others}
        told = {
            "files": files,
            "beside": beside,
            "tensors": [entry.to_json() for entry in self.entries],
            "masks": self.masks,
        }
        (self.folder / MANIFEST).write_text(sealed({**content, **told}), encoding="utf-8")

    def _write(self, name: str, held: Sequence[tuple[Held, Grid | None]]) -> None:
        """Into one file called ``name``, or into several with an index."""
        shards = _shards(held, self.shard_bytes)
        files = [_shard_name(name, number, len(shards)) for number in range(len(shards))]
        where: dict[str, str] = {}
        for file, shard in zip(files, shards):
            planned = [part for each, grid in shard for part in _planned(each, grid)]
            self.files[file] = write_safetensors(self.folder / file, planned)
            where |= {part.name: file for part in planned}
            for each, grid in shard:
                self._enter(each, grid, file, each.names[0])
        if len(files) > 1:
            index = {"metadata": {"total_size": sum(self.files[file].bytes for file in files)}, "weight_map": where}
            (self.folder / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")

    def _enter(self, held: Held, grid: Grid | None, file: str, key: str) -> None:
        self.entries.append(Entry(held.names, tuple(held.tensor.shape), _dtype(held.tensor), file, key, grid))


def _planned(held: Held, grid: Grid | None) -> list[Planned]:
    tensor, name = held.tensor, held.names[0]
    if grid is None:
        return [Planned(name, tensor.dtype, tuple(tensor.shape), tensor.detach)]
    return [
        Planned(name + VALUES, tensor.dtype, (grid.values,), partial(kept_values, tensor, grid)),
        Planned(name + PLACES, torch.uint8, (grid.place_bytes,), partial(kept_places, tensor, grid)),
    ]


def _shards(held: Sequence[tuple[Held, Grid | None]], most: int) -> list[list[tuple[Held, Grid | None]]]:
    """``held`` cut where a file would have more than ``most`` bytes; a larger tensor has one to itself."""
    shards: list[list[tuple[Held, Grid | None]]] = []
    size = 0
    for each in held:
        bytes_ = _bytes_of(*each)
        if not shards or size + bytes_ > most:
            shards.append([])
            size = 0
        shards[-1].append(each)
        size += bytes_
    return shards


def _shard_name(name: str, number: int, count: int) -> str:
    """As ``transformers`` calls them."""
    return f"{name}.safetensors" if count == 1 else f"{name}-{number + 1:05d}-of-{count:05d}.safetensors"


def _bits(make: Callable[[], Tensor]) -> Tensor:
    return torch.from_numpy(np.packbits(make().cpu().contiguous().numpy().reshape(-1), bitorder="little"))


# ----------------------------------------------------------------------- models of transformers


def _is_pretrained(model: nn.Module) -> bool:
    kind = type(model)  # a module itself may pass on whatever it is asked for
    return hasattr(kind, "_keys_to_ignore_on_save") and hasattr(kind, "save_pretrained")


def _names_in(file: Path) -> list[str]:
    with readable(file):
        return list(Safetensors(file))


def _holds(file: Path, name: str, tensor: Tensor) -> bool:
    """Whether ``file`` has the same bits under ``name``: formats may rename, split and merge weights."""
    with readable(file):
        found = Safetensors(file)[name]
    if found.dtype != tensor.dtype or found.shape != tensor.shape:
        return False
    flat = [each.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for each in (found, tensor)]
    return torch.equal(*flat)


def _written(file: Path) -> Written:
    with file.open("rb") as opened:
        return Written(file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest())


# -------------------------------------------------------------------------------- the folder


def _require_new(folder: Path) -> None:
    """Raise ``ValueError`` where ``folder`` is a file, has something in it, or would be inside a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: name a new one, files of two models are never mixed")
    if (file := next((above for above in folder.absolute().parents if above.is_file()), None)) is not None:
        raise ValueError(f"{folder} would be inside {file}, which is a file: name another folder")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder`` once all is written, and is gone if that fails."""
    place = folder.absolute()
    partial_ = place.parent / f".{place.name}.{os.getpid()}.partial"
    partial_.mkdir(parents=True)
    try:
        yield partial_
        if folder.exists():
            folder.rmdir()
        partial_.rename(folder)
    finally:
        shutil.rmtree(partial_, ignore_errors=True)
