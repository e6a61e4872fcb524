"""Implementations of a model's parts that can be traced, in place of those that cannot, while it is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from sparselab.core.experts import is_routed

_LOOP, _TRACEABLE, _HELD = "eager", "grouped_mm", "_experts_implementation_internal"


@contextlib.contextmanager
def traceable_experts(model: nn.Module) -> Iterator[None]:
    """Experts of ``transformers`` that run in a loop run as grouped matrix products meanwhile.

    How often the loop runs depends on the routing, so it cannot be traced; both compute the same
    function. Everything else, ``verify`` included, runs the model's own.
    """
    configs = {id(config): config for module in model.modules() if is_routed(module) and (config := _config(module))}
    loops = [config for config in configs.values() if getattr(config, _HELD, None) == _LOOP]
    for config in loops:
        setattr(config, _HELD, _TRACEABLE)
    try:
        yield
    finally:
        for config in loops:
            setattr(config, _HELD, _LOOP)


def _config(module: nn.Module) -> Any:
    return getattr(module, "config", None)
