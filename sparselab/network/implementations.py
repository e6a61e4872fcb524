"""Implementations of a model's parts that can be traced, in place of those that cannot, while it is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from sparselab.core.experts import is_routed

_LOOP, _GROUPED, _BATCHED = "eager", "grouped_mm", "batched_mm"
_HELD = "_experts_implementation_internal"


def traceable_experts(model: nn.Module) -> AbstractContextManager[None]:
    """Experts of ``transformers`` that run in a loop run as grouped matrix products meanwhile.

    How often the loop runs depends on the routing, so it cannot be traced; both compute the same
    function. Everything else, ``verify`` included, runs the model's own.
    """
    return _experts_as(_GROUPED, model, instead_of=(_LOOP,))


def batched_experts(model: nn.Module) -> AbstractContextManager[None]:
    """Experts of ``transformers`` pick a matrix for each token and multiply by these in a batch meanwhile.

    That consists of operators that ONNX has, which neither a loop nor grouped matrix products do.
    """
    return _experts_as(_BATCHED, model, instead_of=(_LOOP, _GROUPED))


@contextlib.contextmanager
def _experts_as(implementation: str, model: nn.Module, instead_of: Collection[str]) -> Iterator[None]:
    configs = {id(config): config for module in model.modules() if is_routed(module) and (config := _config(module))}
    before = [(config, held) for config in configs.values() if (held := getattr(config, _HELD, None)) in instead_of]
    for config, _ in before:
        setattr(config, _HELD, implementation)
    try:
        yield
    finally:
        for config, held in before:
            setattr(config, _HELD, held)


def _config(module: nn.Module) -> Any:
    return getattr(module, "config", None)
