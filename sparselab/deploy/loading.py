"""``load_into``: what ``save`` wrote, into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparselab.core.artefacts import Artefact as Tensors
from sparselab.core.artefacts import Entry
from sparselab.core.interrupts import interrupted_afterwards
from sparselab.core.models import as_eager, unwrap
from sparselab.core.paths import as_path
from sparselab.core.writing import why_not_written
from sparselab.deploy.artefact import Artefact
from sparselab.deploy.held import held_tensors, mask_buffers_of


def load_into(model: nn.Module, folder: str | Path) -> Artefact:
    """Fill ``model`` with the tensors that ``save`` wrote into ``folder``, whichever form they have there.

    Bit for bit, in place, on the devices where the tensors of ``model`` are; a masked model (one
    that a ``Sparsifier`` works on) gets the masks too. Before anything changes, the digest of every
    file is compared with the manifest, and every name, shape and dtype with the model. One tensor at
    a time is in memory, no code in the files is run, and an interruption waits until all is loaded.
    Returns what is known of the model beside its tensors.

    Raises ``ValueError`` for a folder that ``save`` did not write, files that are damaged, cut off or
    missing, and a model that does not have these tensors, with these shapes and dtypes, and no
    others, or whose tensors cannot be written (the meta device: ``to_empty`` first).

    >>> import tempfile, torch, sparselab as sl
    >>> folder = tempfile.mkdtemp()
    >>> _ = sl.save(torch.nn.Linear(8, 4), folder, protocol={"pruner": "none"})
    >>> load_into(torch.nn.Linear(8, 4), folder).protocol
    {'pruner': 'none'}
    """
    model, folder = unwrap(as_eager(model, "load_into")), as_path(folder, "load_into")
    targets = {name: each.tensor for each in held_tensors(model, "load_into") for name in each.names}
    stored = Tensors(folder)
    _require_alike(stored.entries, targets, folder)
    masks = mask_buffers_of(model, stored.masked)
    with torch.no_grad(), interrupted_afterwards():
        for entry in stored.entries:
            tensor = stored[entry.names[0]]
            for target in {id(targets[name]): targets[name] for name in entry.names}.values():
                target.copy_(tensor)
        for name, buffer in masks.items():
            buffer.copy_(stored.mask(name))
    return Artefact.read(folder)


def _require_alike(entries: list[Entry], targets: Mapping[str, Tensor], folder: Path) -> None:
    """Raise ``ValueError``, naming the first that differs, where a model does not have these tensors and no others."""
    stored = {name: entry for entry in entries for name in entry.names}
    for kind, missing in (
        ("the model does not have", [name for name in stored if name not in targets]),
        ("are not there", [name for name in targets if name not in stored]),
    ):
        if missing:
            raise ValueError(
                f"{folder} is not of this model: {len(missing)} tensors {kind}, {missing[0]!r} first. Make the model "
                "with the configuration that was saved"
            )
    shared: dict[int, tuple[str, Entry]] = {}
    for name, entry in stored.items():
        target = targets[name]
        if tuple(target.shape) != entry.shape:
            raise ValueError(f"{name!r} has shape {entry.shape} in {folder}, and in the model {tuple(target.shape)}")
        if (dtype := str(target.dtype).removeprefix("torch.")) != entry.dtype:
            raise ValueError(
                f"{name!r} is {entry.dtype} in {folder}, and in the model {dtype}: convert the model first, "
                f"model.to(torch.{entry.dtype})"
            )
        if (reason := why_not_written(target)) is not None:
            raise ValueError(f"load_into: {name!r} cannot be written: {reason}")
        other, same = shared.setdefault(id(target), (name, entry))
        if same is not entry:
            raise ValueError(f"{other!r} and {name!r} are one tensor in this model and two in {folder}: untie them")
