"""Any model: what is inside a wrapper, where it is, its mode and its buffers for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside a wrapper, or inside several.

    Known are ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and
    ``AveragedModel``.
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while True:
        if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


def cuda_devices(model: nn.Module) -> list[int]:
    """The indices of the GPUs that hold parameters of ``model``, whose generators it draws from."""
    return sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})


def to_device(batch: Any, device: torch.device | str | None) -> Any:
    """``batch`` with all tensors in its tuples, lists and dicts moved to ``device``, if given."""
    return tree_map(lambda entry: entry.to(device) if isinstance(entry, Tensor) else entry, batch) if device else batch


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Every module of ``model`` in training or in evaluation mode; each one's own mode afterwards.

    The flags are set one by one, and ``train()`` and ``eval()`` are not called: a model's own may
    do more than set them (merge low-rank weights, freeze a norm, refuse), and what they do beside
    the flags could not be undone. So the model is left as it was, also after an error.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = training
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """``model`` in evaluation mode for a while: see ``in_mode``."""
    return in_mode(model, training=False)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Have the buffers of ``model`` be the same tensors with the same content afterwards.

    Also after an error. A model that counts or averages in its buffers would otherwise answer the
    next call differently. Memory: one copy of the buffers meanwhile.
    """
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, content in before:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                if not torch.equal(buffer, content):
                    buffer.copy_(content)
