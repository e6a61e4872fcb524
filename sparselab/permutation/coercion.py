"""What is asked for, as the objects that a search works with: a problem, and a strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sparselab.core.weight_matrix import to_matrix
from sparselab.permutation.problem import MAX_CHANNELS, Matrix, SearchProblem
from sparselab.permutation.strategy import STRATEGIES, Strategy
from sparselab.saliency import Saliency, scores

Searchable = torch.Tensor | Matrix | SearchProblem


def as_problem(item: Searchable, saliency: Saliency = "magnitude") -> SearchProblem:
    """The search problem of a weight, matrix or problem; see ``search_permutation``."""
    if isinstance(item, SearchProblem):
        return item
    weight = _as_weight(item)
    if weight.ndim < 2:
        raise ValueError(f"a permutation needs a weight of at least 2 dimensions, got shape {tuple(weight.shape)}")
    if weight.shape[1] > MAX_CHANNELS:
        raise ValueError(f"{weight.shape[1]} channels are more than the limit of {MAX_CHANNELS}")
    return SearchProblem.from_matrix(to_matrix(scores(weight.detach(), saliency)))


def _as_weight(item: Any) -> torch.Tensor:
    """``item`` as a tensor of numbers that can be scored; a copy where it is not a tensor of floats."""
    if isinstance(item, torch.Tensor):
        scorable = item.is_complex() or (item.is_floating_point() and item.dtype.itemsize > 1)
        return item if scorable else item.double()
    array = np.array(item)
    if array.dtype.kind not in "fiubc":
        raise ValueError(
            "a permutation is searched for a weight, a matrix of numbers (torch or numpy) or a SearchProblem, got "
            f"{type(item).__name__}"
        )
    if array.dtype.kind != "c" and array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    return torch.from_numpy(array)


def as_strategy(strategy: str | Strategy) -> Strategy:
    """The strategy of a name with options; an object is returned as it is. Raises ``ValueError`` for anything else."""
    chosen = STRATEGIES.resolve(strategy)
    if isinstance(chosen, type) or not callable(chosen):
        raise ValueError(
            "a strategy is a name with options such as 'stripe_groups,8,100', or an object such as ChannelSwap(100), "
            f"got {strategy!r}"
        )
    return chosen


def require_seed(seed: Any) -> None:
    """Raise ``ValueError`` for what is no integer, or a negative one, which numpy's generators refuse."""
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed={seed!r}: a search is seeded by an integer that is not negative")


def require_time_limit(seconds: Any) -> None:
    """Raise ``ValueError`` for what is neither ``None`` nor a positive number of seconds."""
    if seconds is not None and not (isinstance(seconds, (int, float, np.number)) and seconds > 0):
        raise ValueError(f"time_limit must be positive seconds, got {seconds!r}")
