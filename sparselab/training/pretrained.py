"""Masks and ``save_pretrained`` of ``transformers``, which writes plain models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn


def leave_out(model: nn.Module, buffers: Iterable[str]) -> None:
    """Have ``save_pretrained`` of ``model``, and of models in it, leave out ``buffers``.

    They are full names in ``model``. Models of ``transformers`` keep a list for that; with others
    nothing is done.
    """
    for module, names in _lists(model, buffers):
        module._keys_to_ignore_on_save = set(module._keys_to_ignore_on_save or ()) | names


def put_back(model: nn.Module, buffers: Iterable[str]) -> None:
    """Undo ``leave_out``."""
    for module, names in _lists(model, buffers):
        module._keys_to_ignore_on_save = set(module._keys_to_ignore_on_save or ()) - names


def _lists(model: nn.Module, buffers: Iterable[str]) -> Iterator[tuple[Any, set[str]]]:
    """The modules in ``model`` that keep such a list, each with the names that the buffers have in it."""
    buffers = list(buffers)
    for prefix, module in model.named_modules():
        kind = type(module)  # a module itself may pass on whatever it is asked for
        if hasattr(kind, "_keys_to_ignore_on_save") and hasattr(kind, "save_pretrained"):
            start = f"{prefix}." if prefix else ""
            yield module, {name.removeprefix(start) for name in buffers if name.startswith(start)}
