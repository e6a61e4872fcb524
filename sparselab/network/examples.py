"""Example inputs that are a loader: its first batch is what the model takes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from sparselab.core.models import to_device

_log = logging.getLogger("sparselab")


def examples_of(given: Any, model: nn.Module) -> Any:
    """``given``, or where it is a loader the inputs in its first batch, on the device of ``model``.

    A loader is a ``DataLoader``, or what can be iterated again and again and has a ``dataset``. Of a
    batch that is a tuple or list, the first entry is what the model takes (labels are ignored), as
    for ``recalibrate_batchnorm``. The log says so. Random generators are as before afterwards.
    Raises ``ValueError`` for a loader without a batch.
    """
    if not is_loader(given):
        return given
    with _generators_kept(given):
        batch = next(iter(given), None)
    if batch is None:
        raise ValueError("example_inputs is a loader without a batch: pass one batch of what model(...) takes")
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    what = "the first entry of its first batch" if inputs is not batch else "its first batch"
    _log.warning("example_inputs is a loader (%s): %s is used", type(given).__name__, what)
    device = next((tensor.device for tensor in model.parameters()), None)
    return to_device(inputs, device)


def is_loader(given: Any) -> bool:
    """Whether ``given`` is plainly a loader of batches, and not one batch."""
    return isinstance(given, DataLoader) or (
        isinstance(given, Iterable) and not isinstance(given, Iterator) and hasattr(given, "dataset")
    )


@contextmanager
def _generators_kept(loader: Any) -> Iterator[None]:
    """Torch's generator and the loader's own as before: a loader draws a seed for every pass."""
    own = [each for each in (getattr(loader, "generator", None),) if isinstance(each, torch.Generator)]
    before = [generator.get_state() for generator in own]
    with torch.random.fork_rng(devices=[]):
        yield
    for generator, state in zip(own, before):
        generator.set_state(state)
