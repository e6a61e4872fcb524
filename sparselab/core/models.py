"""The module inside a wrapper, where it is, and evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while True:
        if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


def cuda_devices(model: nn.Module) -> list[int]:
    """The indices of the GPUs that ``model`` has parameters on: those whose random generators it draws from."""
    return sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})


def to_device(batch: Any, device: torch.device | str | None) -> Any:
    """``batch`` with every tensor in its tuples, lists and dicts on ``device``; as it is for ``None``."""
    return tree_map(lambda entry: entry.to(device) if isinstance(entry, Tensor) else entry, batch) if device else batch


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode; each module's mode is as before afterwards, also after an error."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
