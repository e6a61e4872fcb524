"""From keywords to trials: every list, range, generator, 1-d array or Enum is an axis, anything else one value."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import EnumType
from typing import Any

import numpy as np
import pandas as pd
import torch

from sparselab.sweeps.trial import Trial

MAX_TRIALS = 1_000_000

# What the frame says about a trial besides its inputs and metrics: no input may bear such a name.
RESERVED = ("task", "state", "error", "traceback", "key")

_ARRAYS = (np.ndarray, torch.Tensor, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)


def axis(name: str, value: object) -> list[Any]:
    """The values of an axis; ``[value]`` for what is one value.

    An axis is a list, a range, a generator, an array with one dimension (numpy's, torch's, a pandas
    ``Series`` or ``Index``: its values are Python's own) or an ``Enum`` (its members). Strings,
    tuples, mappings, scalars and other arrays are one value. Raises ``ValueError`` for an axis
    without values, without an order (a set) or without an end.

    >>> axis("x", range(3)), axis("x", (1, 2)), axis("x", "2:4"), axis("x", torch.linspace(0, 1, 3))
    ([0, 1, 2], [(1, 2)], ['2:4'], [0.0, 0.5, 1.0])
    """
    if isinstance(value, (set, frozenset)):
        raise ValueError(f"{name}={value!r} has no order, so rows would come in another order every time: use a list")
    if isinstance(value, _ARRAYS) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, EnumType):
        value = list(value)
    if not isinstance(value, (list, range, Iterator)):
        return [value]
    values = list(itertools.islice(value, MAX_TRIALS + 1))
    if not values:
        raise ValueError(f"{name} is an axis without values; give it at least one, or leave it out")
    if len(values) > MAX_TRIALS:
        raise ValueError(f"{name} has more than {MAX_TRIALS} values; is it a generator without an end?")
    return values


def grid(axes: Mapping[str, list[Any]], trials: Iterable[Mapping[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """The inputs of every trial: each of ``trials`` with every combination of axes.

    ``None`` stands for one trial that says nothing. The last axis runs fastest. Raises
    ``ValueError`` for an input that is both an axis and in ``trials``.
    """
    for given in _explicit(trials):
        check_names(given)
        twice = sorted(set(given) & set(axes))
        if twice:
            raise ValueError(f"{', '.join(twice)}: both a keyword and in trials=; say it in one of the two")
        for values in itertools.product(*axes.values()):
            yield {**given, **dict(zip(axes, values))}


def chosen(inputs: Iterable[dict[str, Any]], where: Callable[[Trial], object] | None) -> list[dict[str, Any]]:
    """The trials that ``where`` takes, all without it; raises ``ValueError`` when none is left, or too many are."""
    kept = [given for given in itertools.islice(inputs, MAX_TRIALS + 1) if where is None or where(Trial(given))]
    if not kept:
        raise ValueError("where= leaves no trial" if where is not None else "trials= is empty: there is nothing to run")
    if len(kept) > MAX_TRIALS:
        raise ValueError(f"the sweep has more than {MAX_TRIALS} trials; split it")
    return kept


def check_names(names: Iterable[str]) -> None:
    """Raise ``ValueError`` for an input that cannot be a column and an attribute.

    It could not be read as ``trial.name``, or would hide a column of the frame.
    """
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"{name!r} cannot name an input: use a Python name that does not begin with '_'")
        if hasattr(Trial, name):
            raise ValueError(f"{name!r} cannot name an input: it is a method of the trial; use another name")
        if name in RESERVED:
            raise ValueError(f"{name!r} cannot name an input: the frame has a column of that name; use another name")


def _explicit(trials: Iterable[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    if trials is None:
        return [{}]
    explicit = list(trials)
    wrong = [given for given in explicit if not isinstance(given, Mapping)]
    if wrong:
        raise ValueError(f"trials= takes one mapping from input to value a trial, got {wrong[0]!r}")
    return [dict(given) for given in explicit]
