"""ASP's mask library under its own names, for code that imports ``apex.contrib.sparsity.sparse_masklib``.

Masks are returned as ASP returns them: ones and zeros in the dtype of the input. ``sparselab.create_mask`` is the one to
use in new code.
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
    """The mask of ``tensor`` by a pattern of ASP's (or any other that sparselab knows), in the dtype of ``tensor``.

    A last group with fewer than M channels is pruned as if filled up with zeros, as there. ``density`` is accepted for
    ASP's callers, which pass 0.5 whatever the pattern; the pattern decides.
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
