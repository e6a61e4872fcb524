"""Batch normalisation after pruning: statistics that fit the weights as they are now."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparselab.core.batches import TAKES, call_for
from sparselab.core.models import as_eager, device_of, evaluating, running, to_device
from sparselab.core.readable import blaming_weights


def recalibrate_batchnorm(model: nn.Module, loader: Iterable[Any], batches: int | None = None) -> None:
    """Re-estimate the running statistics of every batch norm from the model's own inputs. In place; no training.

    A pruned network's activations have other means and variances than the statistics it carries;
    without this, one-shot accuracies say nothing. ``loader`` yields what the model takes (a tensor,
    a tuple of positional or a dict of keyword arguments), or ``(inputs, labels)``, whose labels are
    ignored (``sparselab.core.batches`` has the rule); the first ``batches`` of it are used
    (default: all). Statistics are the plain average over batches; a norm that none of them reaches
    keeps its own, and all do when anything fails. Only batch norms are in training mode meanwhile;
    every mode is as before afterwards. Deterministic for a given loader. Raises ``ValueError`` when
    there is no batch, for what is no module in Python, for norms that are not initialised yet, and
    when the model fails on a batch (``CannotRunError``); a model without batch norms is left alone.
    """
    as_eager(model, "recalibrate_batchnorm")
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    for norm in norms:
        if norm.running_mean is not None and norm.running_mean.is_meta:
            raise ValueError(
                "the statistics of a batch norm are on the meta device (not loaded, or offloaded), "
                "where nothing can be estimated: load the model first"
            )
    if any(nn.parameter.is_lazy(buffer) for norm in norms for buffer in norm.buffers()):
        raise ValueError("a batch norm is not initialised yet: run one forward pass first")
    before = {norm: (norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms}
    device = device_of(model)
    seen = 0
    reached: list[_BatchNorm] = []
    try:
        with evaluating(model), torch.no_grad():
            for norm in norms:
                norm.train()
                norm.momentum = None
                norm.reset_running_stats()
            for batch in islice(loader, batches):
                args, kwargs = to_device(call_for(model, batch), device)
                with blaming_weights(model), running(model, f"batch {seen}", TAKES):
                    model(*args, **kwargs)
                seen += 1
        reached = [norm for norm in norms if norm.num_batches_tracked]
    finally:
        for norm, (momentum, statistics) in before.items():
            norm.momentum = momentum
            if norm not in reached:
                for buffer, old in zip(norm.buffers(), statistics):
                    buffer.copy_(old)
    if not seen:
        raise ValueError("no batch to estimate batch norm statistics from: the loader was empty")
