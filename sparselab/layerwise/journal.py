"""Where an interrupted run goes on: what a store knows of the model that it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.layerwise.store import BlockStore, Start
from sparselab.network.plan import Plan
from sparselab.network.report import PermutationReport


@dataclass(frozen=True, eq=False)
class Journal:
    """What a ``store``, if there is one, knows of earlier calls for ``model``."""

    model: nn.Module
    store: BlockStore | None

    def open(self, run: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for the store of another run."""
        if self.store is not None:
            self.store.open(run)

    def begin(self, permute: Callable[[], PermutationReport | None]) -> PermutationReport | None:
        """Bring the model to where pruning starts: dense, and permuted.

        Raises ``ValueError``, the model being as before, where the store is of another model.
        """
        if self.store is None:
            return permute()
        now, start = fingerprint(self.model), self.store.start
        if start is None:
            report: PermutationReport | None = permute()
            plan = Plan() if report is None else report.plan
            self.store.save_start(Start(now, fingerprint(self.model), plan))
            return report
        if now == start.model:
            start.plan.apply(self.model)
            return None
        if not self._as_left(start):
            raise ValueError(
                f"store={str(self.store.folder)!r} is of another model: this one has weights that it had neither before "
                "nor after; name another folder"
            )
        return None

    def _as_left(self, start: Start) -> bool:
        """Whether the model is as an earlier call left it: dense, but for blocks that are done."""
        assert self.store is not None
        known = dict(self.model.named_parameters(remove_duplicate=False))
        dense: dict[str, Tensor] = {}
        for number in range(self.store.done()):
            block = self.store.load(number)
            for name, weight in block.dense.items():
                if name not in known or not any(
                    torch.equal(known[name].cpu(), each) for each in (weight, block.pruned[name])
                ):
                    return False
                dense[name] = weight
        return fingerprint(self.model, dense) == start.permuted


def fingerprint(model: nn.Module, instead: Mapping[str, Tensor] | None = None) -> str:
    """A hash of every parameter and buffer, names, shapes, dtypes and values; of some those given ``instead``."""
    hashed = hashlib.sha256()
    for name, own in (*model.named_parameters(), *model.named_buffers()):
        tensor = (instead or {}).get(name, own)
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        hashed.update(memoryview(content))
    return hashed.hexdigest()[:20]
