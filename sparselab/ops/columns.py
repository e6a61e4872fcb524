"""Columns of a weight pruned one after the other, each made up for by those that follow."""

from __future__ import annotations

import torch
from torch import Tensor

from sparselab.ops.masks import as_numpy_floats, raise_not_finite


def prune_columns(rows: Tensor, factor: Tensor, n: int, m: int, positions: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Keep ``n`` of every ``m`` columns of ``rows``; the columns after one make up for what is pruned of it.

    ``rows``: ``(outputs, d)``; ``factor``: ``(d, d)``, upper triangular; both float32 or float64, on
    the CPU. A column's entries score ``abs(w / factor_jj)`` as they are when its group is come to,
    and ties go to the lower index. Where one is pruned, ``e = w / factor_jj``, and ``e`` times the
    rest of that row of ``factor`` is taken off the columns from there on. With ``positions`` a group
    has ``m`` columns of each, the positions of one channel side by side.

    Returns the rows as they are then, the mask, and every ``e`` (0 where kept), all ``(outputs, d)``.
    Raises ``ValueError`` for NaN or infinite scores.
    """
    from sparselab.ops import column_kernels

    changed = as_numpy_floats(rows.clone(memory_format=torch.contiguous_format))
    mask, errors, finite = column_kernels.prune_columns(changed, as_numpy_floats(factor), n, m, positions)
    if not finite:
        raise_not_finite()
    return torch.from_numpy(changed), torch.from_numpy(mask), torch.from_numpy(errors)
