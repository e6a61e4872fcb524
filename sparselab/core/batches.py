"""A batch as a call of a model: one rule for what loaders yield."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparselab.core.models import unwrap

TAKES = (
    "A batch is what model(...) takes (a tensor, a tuple of positional or a dict of keyword arguments), "
    "or (inputs, labels)"
)

_LABELS = ("label", "labels", "target", "targets", "y")

Parameters: TypeAlias = Mapping[str, inspect.Parameter] | None
"""Those of a model's ``forward`` by name; ``None`` where Python cannot tell."""


def calibration_batches(calibration: Iterable[Any], what_for: str) -> list[Any]:
    """The batches of ``calibration``, each of them what a model takes.

    Raises ``ValueError`` for what is one batch by itself, and where there is none.

    >>> calibration_batches([], "to calibrate on")
    Traceback (most recent call last):
    ...
    ValueError: no batch to calibrate on: the iterable was empty (used up?)
    """
    if isinstance(calibration, (Tensor, Mapping, str)) or not isinstance(calibration, Iterable):
        raise ValueError(f"calibration is a {type(calibration).__name__}; give batches, [batch] if there is one only")
    batches = list(calibration)
    if not batches:
        raise ValueError(f"no batch {what_for}: the iterable was empty (used up?)")
    return batches


def excerpt(batch: Any, positions: int = 64) -> Any:
    """``batch`` with its first ``positions`` only, where it is plain text: token ids, and nothing padded.

    Any other batch is returned as it is. Views, no copies.

    >>> import torch
    >>> [excerpt(ids)["input_ids"].shape[1] for n in (512, 8) if (ids := {"input_ids": torch.zeros(2, n)})]
    [64, 8]
    """
    if not isinstance(batch, Mapping) or not {"input_ids"} <= batch.keys() <= {"input_ids", "attention_mask"}:
        return batch
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if ids.ndim != 2 or (mask is not None and (mask.shape != ids.shape or not bool(mask.all()))):
        return batch
    return {name: tensor[:, :positions] for name, tensor in batch.items()}


def call_for(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` with which ``model`` is called on ``batch``.

    - A mapping has the keyword arguments, but ``labels`` where ``forward`` knows none.
    - A tuple or list has the positional arguments, but class labels at its end: integers, one for
      each example, where ``forward`` has no argument, or an optional one of another name.
    - One with more entries than the model takes is ``(inputs, labels, ...)``: the first entry, of
      any of these kinds, has the arguments, and the others are left out.
    - Anything else is the one argument.

    >>> import torch
    >>> x, labels = torch.randn(2, 4), torch.tensor([0, 1])
    >>> [len(call_for(nn.Linear(4, 2), batch)[0]) for batch in (x, (x,), (x, labels))]
    [1, 1, 1]
    """
    parameters = _parameters(model)
    if isinstance(batch, (tuple, list)) and batch:
        entries = list(batch)
        while len(entries) > 1 and _ends_in_labels(entries, parameters):
            entries.pop()
        one = len(entries) < len(batch) and len(entries) == 1  # inputs, which may be several in turn
        if not one and _takes(parameters, entries):
            return tuple(entries), {}
        batch = entries[0]
    if isinstance(batch, Mapping):
        known = parameters is None or "labels" in parameters or _any_keyword(parameters)
        return (), {key: value for key, value in batch.items() if known or key != "labels"}
    several = isinstance(batch, (tuple, list)) and _takes(parameters, batch)
    return (tuple(batch) if several else (batch,)), {}


def arguments(model: nn.Module, batch: Any) -> Mapping[str, Any]:
    """What ``model`` is called with on ``batch``, by the names that its ``forward`` has."""
    args, kwargs = call_for(model, batch)
    names = [] if (parameters := _parameters(model)) is None else _positional(parameters)
    return {**{parameter.name: value for parameter, value in zip(names, args)}, **kwargs}


def _parameters(model: nn.Module) -> Parameters:
    try:
        return inspect.signature(unwrap(model).forward).parameters
    except (TypeError, ValueError):
        return None


def _positional(parameters: Mapping[str, inspect.Parameter]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters.values() if parameter.kind in kinds]


def _any_keyword(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _takes(parameters: Parameters, entries: Sequence[Any]) -> bool:
    """Whether ``forward`` can be called with so many positional arguments."""
    if parameters is None or any(each.kind is each.VAR_POSITIONAL for each in parameters.values()):
        return True
    named = _positional(parameters)
    required = sum(parameter.default is parameter.empty for parameter in named)
    return required <= len(entries) <= len(named)


def _ends_in_labels(entries: Sequence[Any], parameters: Parameters) -> bool:
    """Whether the last entry is one integer for each example, at a place where none is asked for."""
    first, last = tree_leaves(entries[0]), entries[-1]
    examples = next((leaf.shape[0] for leaf in first if isinstance(leaf, Tensor) and leaf.ndim), None)
    if not isinstance(last, Tensor) or last.ndim != 1 or last.is_floating_point() or len(last) != examples:
        return False
    named = [] if parameters is None else _positional(parameters)
    if len(entries) > len(named) or isinstance(entries[0], (tuple, Mapping)):
        return True
    place = named[len(entries) - 1]
    return place.default is not place.empty and place.name not in _LABELS
