"""ASP's mask library under its own names, for code that imports it from Apex.

There it is ``apex.contrib.sparsity.sparse_masklib``. Masks are returned as ASP returns them: ones
and zeros in the dtype of the input. In new code use ``sparselab.create_mask``.
"""

from __future__ import annotations

from torch import Tensor

from sparselab.masks import create as masks


def fill(x: Tensor) -> float:
    """The density of ``x``: the share of its entries that are not zero.

    >>> import torch
    >>> fill(torch.tensor([1.0, 0.0, 2.0, 0.0]))
    0.5
    """
    return float(x.count_nonzero()) / x.numel()


def create_mask(tensor: Tensor, pattern: str = "m4n2_1d", density: float = 0.5) -> Tensor:
    """The mask of ``tensor``, in its dtype, by any pattern that sparselab knows.

    As in ASP, a last group with fewer than M channels is pruned as if filled up with zeros.
    ``density`` is accepted because callers of ASP pass 0.5 whatever the pattern is; the pattern
    decides.
    """
    return masks.create_mask(tensor, pattern, ragged="pad").to(tensor.dtype)


def mn_1d_best(matrix: Tensor, m: int, n: int) -> Tensor:
    """The best ``n`` of every ``m`` along the rows of ``matrix``."""
    return create_mask(matrix, f"m{m}n{n}_1d")


def mn_2d_greedy(matrix: Tensor, m: int, n: int) -> Tensor:
    """``n`` of every ``m`` in both directions, entries taken by falling magnitude."""
    return create_mask(matrix, f"m{m}n{n}_2d_greedy")


def mn_2d_best(matrix: Tensor, m: int, n: int) -> Tensor:
    """``n`` of every ``m`` in both directions, the best of all valid blocks."""
    return create_mask(matrix, f"m{m}n{n}_2d_best")


def m4n2_1d(mat: Tensor, density: float = 0.5) -> Tensor:
    """2:4 along the rows."""
    return mn_1d_best(mat, 4, 2)


def m4n2_2d_greedy(mat: Tensor, density: float = 0.5) -> Tensor:
    """2:4 in both directions, greedily."""
    return mn_2d_greedy(mat, 4, 2)


def m4n2_2d_best(mat: Tensor, density: float = 0.5) -> Tensor:
    """2:4 in both directions, exactly."""
    return mn_2d_best(mat, 4, 2)
