"""Where an interrupted run goes on: what a store knows of the model that it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.channel_order import ChannelOrder
from sparselab.layerwise.store import BlockStore, Start
from sparselab.network.plan import Plan
from sparselab.network.report import PermutationReport


@dataclass(frozen=True, eq=False)
class Begun:
    """Where pruning starts: the report of the orders, if they were searched now, and ``own`` ones by weight name."""

    report: PermutationReport | None = None
    own: Mapping[str, ChannelOrder] = field(default_factory=dict)


def begin(model: nn.Module, store: BlockStore | None, permute: Callable[[], PermutationReport | None]) -> Begun:
    """Bring ``model`` to where pruning starts: permuted, as it was or as an earlier call did it.

    Of an earlier call with the ``store`` the blocks that are done stay as they are. Raises
    ``ValueError`` where the store is of another model.
    """
    if store is None:
        return _begun(permute())
    now, start = fingerprint(model), store.start
    if start is None:
        begun = _begun(permute())
        plan = Plan() if begun.report is None else begun.report.plan
        store.save_start(Start(now, fingerprint(model), plan, begun.own))
        return begun
    if now == start.model:
        start.plan.apply(model)
    elif not _as_left(model, store, start):
        raise ValueError(
            f"store={str(store.folder)!r} is of another model: this one has weights that it had neither before nor "
            "after; name another folder"
        )
    return Begun(own=start.own)


def _begun(report: PermutationReport | None) -> Begun:
    return Begun() if report is None else Begun(report, report.own)


def _as_left(model: nn.Module, store: BlockStore, start: Start) -> bool:
    """Whether ``model`` is as an earlier call left it: dense, but for blocks that are done."""
    known = dict(model.named_parameters(remove_duplicate=False))
    dense: dict[str, Tensor] = {}
    for number in range(store.done()):
        block = store.load(number)
        for name, weight in block.dense.items():
            seen = (weight, block.pruned[name])
            if name not in known or not any(torch.equal(known[name].cpu(), each) for each in seen):
                return False
            dense[name] = weight
    return fingerprint(model, dense) == start.permuted


def fingerprint(model: nn.Module, instead: Mapping[str, Tensor] | None = None) -> str:
    """A hash of every parameter and buffer, names, shapes, dtypes and values; of some those given ``instead``."""
    hashed = hashlib.sha256()
    for name, own in (*model.named_parameters(), *model.named_buffers()):
        tensor = (instead or {}).get(name, own)
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        hashed.update(memoryview(content))
    return hashed.hexdigest()[:20]
