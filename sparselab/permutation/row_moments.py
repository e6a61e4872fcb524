"""What has orders judged by errors: second moments of what the rows of a matrix meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparselab.core.weight_matrix import is_packed
from sparselab.ops.errors import Forms
from sparselab.ops.matrix import Doubles, Ints
from sparselab.statistics.second_moments import SecondMoments

Matrix = NDArray[Any]

_SINGULAR = 1e-4
"""1 - r^2 is at least twice this where entries that stay make up for others: float32 counts with it."""


@dataclass(frozen=True, eq=False)
class RowMoments:
    """Second moments beside a matrix ``(rows, channels)``: row ``r`` meets ``matrices[of[r]]``.

    ``matrices``: ``(k, channels, channels)``, a block of ``H = sum of x x^T`` for each kind of row
    (kernel position, group of a convolution, expert); ``of``: int64 ``(rows,)``. Where ``updated``,
    the entries that stay make up for those that go, and ``matrices`` are blocks of the inverse of
    ``H``. ``energies`` ``(k, channels)`` are the diagonals of ``H`` itself.
    """

    matrices: Matrix
    of: Ints
    energies: Doubles
    updated: bool = False

    @classmethod
    def independent(cls, rows: int, channels: int) -> Self:
        """Of inputs that do not come together, each of norm 1."""
        return cls(np.eye(channels)[None], np.zeros(rows, np.int64), np.ones((1, channels)))

    @classmethod
    def masked(cls, moments: SecondMoments) -> Self:
        """For masks alone: what a weight loses is ``w_P^T H_PP w_P``.

        Rows are those of ``to_matrix(weight)``. Raises ``ValueError`` for moments that are not finite.
        """
        matrices, of = _by_row(_finite(_different(moments)), moments)
        return cls(matrices, of, _diagonals(matrices))

    @classmethod
    def updated_by(cls, moments: SecondMoments, damping: float = 0.01) -> Self:
        """For pruners that update: what is left after it, ``w_P^T ((H^-1)_PP)^-1 w_P``.

        That is the least error with every other entry free to make up for ``P`` (Hassibi and Stork,
        "Optimal Brain Surgeon", 1992). ``damping`` times the mean of its diagonal is added to
        ``H``. Raises ``ValueError`` for moments that are not finite.
        """
        damped = _finite(_different(moments)).clone()
        diagonal = damped.diagonal(dim1=1, dim2=2)
        diagonal += damping * diagonal.mean(1, keepdim=True)
        diagonal[diagonal <= 0] = 1
        matrices, of = _by_row(torch.cholesky_inverse(torch.linalg.cholesky(damped)), moments)
        energies, _ = _by_row(damped, moments)
        return cls(matrices, of, _diagonals(energies), True)

    def rows(self, index: Ints | slice) -> RowMoments:
        """Those of some rows of the matrix."""
        return replace(self, of=self.of[index])

    def columns(self, index: Ints | slice) -> RowMoments:
        """Those of some columns of the matrix."""
        return replace(self, matrices=self.matrices[:, index][:, :, index], energies=self.energies[:, index])

    def check(self, rows: int, channels: int, where: str) -> None:
        """Raise ``ValueError``, which begins with ``where``, unless they belong to a matrix ``(rows, channels)``."""
        kinds = len(self.matrices)
        if self.matrices.shape != (kinds, channels, channels) or self.energies.shape != (kinds, channels):
            raise ValueError(
                f"{where}second moments of shape {self.matrices.shape} do not belong to {channels} channels"
            )
        if self.of.shape != (rows,) or (rows and not 0 <= self.of.min() <= self.of.max() < kinds):
            raise ValueError(f"{where}the moments' rows, {self.of.shape}, are not those of the matrix, {rows}")

    def scales(self) -> Doubles:
        """``(k, channels)``: with its entries times these, the forms of a row have diagonals of 1."""
        diagonals = _diagonals(self.matrices)
        root = np.sqrt(np.maximum(diagonals, 0))
        scales: Doubles = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0) if self.updated else root
        return scales

    def related(self) -> Matrix:
        """The correlations ``(k, channels, channels)``, with zeros on the diagonal."""
        scales = self.scales().astype(self.matrices.dtype)
        if not self.updated:
            scales = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
        most = 1 - _SINGULAR if self.updated else 1.0
        related = np.clip(self.matrices * scales[:, :, None] * scales[:, None, :], -most, most)
        places = np.arange(related.shape[1])
        related[:, places, places] = 0
        found: Matrix = related
        return found


def forms(parts: Sequence[tuple[Matrix, RowMoments, float]], channels: int) -> Forms:
    """The quadratic forms of matrices ``(rows, channels)`` with their moments and weights, in float64.

    Stacked in one: all have these ``channels``, and all errors are with or all without update.
    """
    if not parts:
        return Forms(
            np.zeros((channels, 0)), np.zeros((0, channels, channels)), np.zeros(1, np.int64), np.zeros(channels), False
        )
    values, related, lengths, own, updated = [], [], [], [], False
    for matrix, moments, weight in parts:
        order = np.argsort(moments.of, kind="stable")
        of, wide = moments.of[order], matrix[order].astype(np.float64) * np.sqrt(weight)
        values.append(wide * moments.scales()[of])
        own.append((np.square(wide) * moments.energies[of]).sum(axis=0))
        related.append(moments.related())
        lengths.append(np.bincount(of, minlength=len(moments.matrices)))
        updated |= moments.updated
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    stacked = np.ascontiguousarray(np.concatenate(values).T)
    return Forms(stacked, np.concatenate(related), starts, np.sum(own, axis=0), updated)


def _different(moments: SecondMoments) -> Tensor:
    """The sums, once where all groups share them."""
    sums = moments.sums.detach()
    return sums[:1] if sums.stride(0) == 0 else sums


def _finite(sums: Tensor) -> Tensor:
    if not bool(sums.isfinite().all()):
        raise ValueError("second moments that are not finite: the data or the layers before gave NaN or infinity")
    return sums


def _by_row(sums: Tensor, moments: SecondMoments) -> tuple[Matrix, Ints]:
    """Blocks of ``sums`` ``(groups, d, d)`` that the rows of the weight matrix meet, and which of them each does."""
    shape, groups = moments.shape, len(sums)
    if is_packed(len(shape), moments.channel_dim):
        outputs = shape[-2] if moments.channel_dim % len(shape) == len(shape) - 1 else shape[-1]
        return _numpy(sums), np.repeat(np.arange(groups), outputs * (shape[0] // groups))
    positions = int(np.prod(shape[2:], dtype=np.int64))
    channels = sums.shape[1] // positions
    apart = sums.reshape(groups, channels, positions, channels, positions)
    blocks = apart.diagonal(dim1=2, dim2=4).permute(3, 0, 1, 2)  # (positions, groups, channels, channels)
    if moments.channel_dim == 0:
        whole = blocks.new_zeros(positions, groups, channels, groups, channels)  # of all groups side by side
        each = torch.arange(groups)
        whole[:, each, :, each] = blocks.transpose(0, 1)
        whole = whole.flatten(3).flatten(1, 2)
        return _numpy(whole), np.repeat(np.arange(positions), shape[1])
    number = np.arange(positions)[:, None] * groups + np.repeat(np.arange(groups), shape[0] // groups)
    return _numpy(blocks.flatten(0, 1)), number.ravel()


def _diagonals(matrices: Matrix) -> Doubles:
    diagonals: Doubles = matrices.diagonal(axis1=1, axis2=2).astype(np.float64)
    return diagonals


def _numpy(tensor: Tensor) -> Matrix:
    array: Matrix = tensor.cpu().contiguous().numpy()
    return array
