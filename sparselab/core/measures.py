"""What a mask retains, what it could at best, and the paper's efficacy. All sums in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def retained(scores: Tensor, mask: Tensor) -> float:
    """The retained saliency: the sum of the ``scores`` that the bool ``mask`` (same shape) keeps.

    >>> retained(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, True]))
    5.0
    """
    return float(torch.where(mask, scores, 0).sum(dtype=torch.float64))


def retained_percent(weight: Tensor, mask: Tensor) -> float:
    """The share of the magnitude of ``weight`` that the bool ``mask`` (same shape) keeps; 100 of a weight of zeros.

    >>> retained_percent(torch.tensor([3.0, -1.0, 0.0]), torch.tensor([True, False, True]))
    75.0
    """
    sizes = weight.abs()
    return 100 - lost_percent(retained(sizes, mask), float(sizes.sum(dtype=torch.float64)))


def density(tensor: Tensor) -> float:
    """The share of the entries of ``tensor`` that are not zero; 0 where it has none.

    >>> density(torch.tensor([3.0, 0.0, -1.0, 0.0]))
    0.5
    """
    return int(torch.count_nonzero(tensor != 0)) / max(1, tensor.numel())  # float8 has no count of its own


def ideal(scores: Tensor, density: float) -> float:
    """The most that any mask of ``density`` in every row can retain: the best share of each row, with no structure.

    ``scores``: ``(rows, channels)``, non-negative. The "50% rows" line of Pool and Yu 2021 at density 0.5.

    >>> ideal(torch.tensor([[3.0, 1.0, 2.0, 4.0]]), 0.5)
    7.0
    """
    keep = keep_count(scores.shape[-1], density)
    return float(scores.topk(keep, dim=-1, sorted=False).values.sum(dtype=torch.float64))


def efficacy(retained: float, baseline: float, ideal: float) -> float:
    """How far from the ``baseline`` (identity order) to the ``ideal``, in percent (Pool and Yu 2021).

    100 where nothing can be gained, that is where the baseline is the ideal already.

    >>> round(efficacy(2919.757, 2852.376, 3042.332), 2)
    35.47
    """
    room = ideal - baseline
    return 100.0 if room <= 0 else 100.0 * (retained - baseline) / room


@overload
def lost_percent(retained: float, total: float) -> float: ...
@overload
def lost_percent(retained: pd.Series[float], total: pd.Series[float]) -> pd.Series[float]: ...
@overload
def lost_percent(retained: NDArray[Any], total: NDArray[Any]) -> NDArray[Any]: ...
def lost_percent(retained: Any, total: Any) -> Any:
    """How much of ``total`` is not ``retained``, in percent; 0 where ``total`` is 0, for then there is nothing to lose.

    Numbers, or pandas Series or numpy arrays of them, element by element; NaN where ``retained`` is NaN.

    >>> lost_percent(3.0, 4.0), lost_percent(0.0, 0.0)
    (25.0, 0.0)
    """
    empty = total == 0
    return 100 * (1 - (retained + empty) / (total + empty))


def keep_count(size: int, density: float) -> int:
    """How many of ``size`` weights the share ``density`` is, rounded down (0.29 of 100 is 29, whatever floats say)."""
    return math.floor(size * density + 1e-9)
