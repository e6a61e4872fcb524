"""SparseGPT: prune column after column, and let the columns to come make up for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from sparselab.core.registry import unknown_name
from sparselab.masks import MaskCalculator
from sparselab.masks.one_d import OneD
from sparselab.ops.columns import prune_columns
from sparselab.pruners.pruner import Pruned
from sparselab.pruners.reconstruction import Reconstruction, cholesky, require_damping, shifted
from sparselab.statistics import SecondMoments

ORDERS = ("largest", "given")

_SOLVED_AT_ONCE = 384
"""The size of a triangular matrix that is inverted at once; larger ones are products of halves."""


@dataclass(frozen=True)
class SparseGPT:
    """One pass over the columns with the inverse of the second moments (Frantar and Alistarh 2023).

    "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", section 3. A column's
    entries score ``w^2 / U_jj^2``, where ``U^T U`` is the inverse of ``H + damping * mean(diag(H))``,
    and what is pruned of it is made up for by the columns that follow. Masks are chosen as the pass
    comes to them, one group of columns at a time, if the calculator has groups; else (no structure,
    or one along whole rows) from the scores of the whole weight before the pass. ``block`` columns
    are updated at once. Costs one inverse and one product of the weight with it. Float32.

    ``order="largest"``: groups of columns are pruned from the one with the largest inputs on, since
    what is pruned late has few columns left to make up for it (as quantisers of the same kind do).
    ``"given"``: from the first column to the last, as published.

    >>> from sparselab.masks import calculator
    >>> x = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]])  # two pairs that go together
    >>> moments = SecondMoments((x.T @ x)[None], (2,), (1, 4))
    >>> SparseGPT(damping=1e-4)(torch.ones(1, 4), calculator("2:4"), moments).weight
    tensor([[0.0000, 1.9998, 2.9997, 0.0000]])
    """

    damping: float = 0.01
    block: int = 128
    order: str = "largest"

    needs = SecondMoments

    def __post_init__(self) -> None:
        require_damping(self.damping)
        if self.block < 1:
            raise ValueError(f"block={self.block}: at least one column is updated at a time")
        if self.order not in ORDERS:
            raise unknown_name("order", self.order, ORDERS)

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """Prune ``weight``; as ``Pruner`` says."""
        problem = Reconstruction.of(self, weight, calculator, statistic, channel_dim)
        matrices = problem.matrices
        damped = shifted(matrices, self.damping * matrices.diagonal(dim1=1, dim2=2).mean(1)[:, None])
        order = _largest_first(matrices, problem) if self.order == "largest" else None
        factors = _upper_factors_of_inverses(damped if order is None else _ordered(damped, order))
        return problem.finished(*_pass(problem, factors, self.block, order))


def _largest_first(matrices: Tensor, problem: Reconstruction) -> Tensor:
    """The columns of each matrix, ``(groups, d)``: those that are masked together stay so, by the size of their inputs."""
    sizes = matrices.diagonal(dim1=1, dim2=2)
    groups, columns = sizes.shape
    together = problem.step if problem.step < columns else 1
    first = sizes.reshape(groups, -1, together).sum(-1).argsort(dim=1, descending=True, stable=True)
    return (first[..., None] * together + torch.arange(together, device=first.device)).flatten(1)


def _ordered(matrices: Tensor, order: Tensor) -> Tensor:
    rows = matrices.gather(1, order[:, :, None].expand_as(matrices))
    return rows.gather(2, order[:, None, :].expand_as(matrices))


def _upper_factors_of_inverses(matrices: Tensor) -> Tensor:
    """Upper triangular ``U`` with ``U^T U`` the inverse of each matrix.

    With rows and columns in reverse, ``L L^T`` is the matrix and the inverse of ``L``, reversed, is
    ``U``: half the work of factoring the inverse.
    """
    return _inverses_of_lower(cholesky(matrices.flip(1, 2))).flip(1, 2)


def _inverses_of_lower(factors: Tensor) -> Tensor:
    """The inverses of lower triangular ``factors``, half by half: a third of the work of solving for the identity."""
    size, half = factors.shape[-1], factors.shape[-1] // 2
    if size <= _SOLVED_AT_ONCE:
        one = torch.eye(size, dtype=factors.dtype, device=factors.device)
        solved: Tensor = torch.linalg.solve_triangular(factors, one, upper=False)
        return solved
    found = torch.zeros_like(factors)
    first = found[:, :half, :half] = _inverses_of_lower(factors[:, :half, :half])
    second = found[:, half:, half:] = _inverses_of_lower(factors[:, half:, half:])
    found[:, half:, :half] = -(second @ (factors[:, half:, :half] @ first))
    return found


def _pass(problem: Reconstruction, factors: Tensor, block: int, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows and the mask after one pass over the columns in ``order``; all groups side by side."""
    columns, step = problem.rows.shape[-1], problem.step
    block = -(-block // step) * step
    factors = factors.expand(len(problem.rows), -1, -1)
    # Columns of the weight are contiguous now; a copy also where they were (input channels first).
    rows = _columns(problem.rows, order).transpose(1, 2).clone(memory_format=torch.contiguous_format)
    back = None if order is None else order.argsort(dim=1)
    mask = torch.empty_like(rows, dtype=torch.bool)
    prune = _prune_by_kernel if _has_kernel(problem) else partial(_prune_columns, order=order, back=back)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        mask[:, start:end], errors = prune(problem, rows[:, start:end], factors[:, start:end, start:end])
        rows[:, end:].baddbmm_(factors[:, start:end, end:].transpose(1, 2), errors, alpha=-1)
    return _columns(rows.transpose(1, 2), back), _columns(mask.transpose(1, 2), back)


def _prune_columns(
    problem: Reconstruction, rows: Tensor, factors: Tensor, order: Tensor | None, back: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Prune some columns ``rows``, ``(groups, d, outputs)``, in place: their mask, and by what the rest makes up for it."""
    columns, step = rows.shape[1], problem.step
    sizes = factors.diagonal(dim1=1, dim2=2)[:, :, None]
    mask, errors = torch.empty_like(rows, dtype=torch.bool), torch.zeros_like(rows)
    for first in range(0, columns, step):
        last = first + step
        scores = (rows[:, first:last] / sizes[:, first:last]).transpose(1, 2)
        mask[:, first:last] = _masked(problem, scores, order, back).transpose(1, 2)
        for column in range(first, last):
            error = rows[:, column].masked_fill(mask[:, column], 0) / sizes[:, column]
            errors[:, column] = error
            rows[:, column:last] -= factors[:, column, column:last, None] * error[:, None]
        part = factors[:, first:last, last:].transpose(1, 2)
        rows[:, last:].baddbmm_(part, errors[:, first:last], alpha=-1)
    return mask, errors


def _has_kernel(problem: Reconstruction) -> bool:
    """Whether ``_prune_by_kernel`` does the same as ``_prune_columns``: for N:M along rows, in the CPU's memory."""
    return type(problem.calculator) is OneD and problem.rows_apart and problem.rows.device.type == "cpu"


def _prune_by_kernel(problem: Reconstruction, rows: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """What ``_prune_columns`` does, in one pass over each row."""
    calculator = cast("OneD", problem.calculator)
    mask, errors = torch.empty_like(rows, dtype=torch.bool), torch.empty_like(rows)
    for group, factor in enumerate(factors):
        changed, chosen, made_up = prune_columns(rows[group].T, factor, calculator.n, calculator.m, problem.positions)
        rows[group], mask[group], errors[group] = changed.T, chosen.T, made_up.T
    return mask, errors


def _masked(problem: Reconstruction, scores: Tensor, order: Tensor | None, back: Tensor | None) -> Tensor:
    """The mask of some ``scores``; a calculator that sees all columns sees them where they are in the weight."""
    whole = scores.shape[-1] == problem.rows.shape[-1]
    return _columns(problem.mask(_columns(scores, back)), order) if whole else problem.mask(scores)


def _columns(rows: Tensor, order: Tensor | None) -> Tensor:
    """The columns of ``rows``, ``(groups, outputs, d)``, in ``order``, ``(groups, d)`` or one for all."""
    return rows if order is None else rows.gather(2, order[:, None, :].expand_as(rows))
