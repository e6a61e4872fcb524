"""The least-squares problem behind weight updates: new rows whose outputs are near the dense ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sparselab.core.weight_matrix import is_packed, to_slices
from sparselab.masks import MaskCalculator
from sparselab.pruners.pruner import Pruned
from sparselab.statistics import SecondMoments

_CLOSE = 0.05
"""Rows whose two errors differ by a smaller share of the error are compared in float64."""

_DEAD = 1e-6
"""The norm of an input that is always 0, as a share of the largest: its weights only decide among themselves."""

_TINY = 1e-30

_LEAST_DAMPING = 1e-6
"""What damping grows from where none, or too little, was asked for."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Find rows ``W'`` of a mask that keep ``tr((W - W') H (W - W')^T)`` small.

    ``rows``: ``W``, ``(groups, outputs, d)``, in float32 (float64 for a float64 weight), where the
    weight is. ``moments``: ``H`` and how rows and weight belong together. ``calculator`` chooses
    masks; whatever its pattern, it is only handed scores.
    """

    weight: Tensor
    rows: Tensor
    moments: SecondMoments
    calculator: MaskCalculator

    @classmethod
    def of(cls, pruner: object, weight: Tensor, calculator: MaskCalculator, statistic: Any, channel_dim: int) -> Self:
        """What ``pruner`` was called with.

        Raises ``ValueError`` without second moments, for those of another weight, for weights and
        moments that are not finite and for shapes that the calculator cannot mask.
        """
        if not isinstance(statistic, SecondMoments):
            raise ValueError(
                f"pruner {pruner} needs SecondMoments of the weight's inputs, got {type(statistic).__name__}: "
                "collect them with sl.statistics.collect(model, batches, [SecondMoments])"
            )
        if (statistic.channel_dim - channel_dim) % weight.ndim:
            raise ValueError(f"channel_dim={channel_dim}, but the second moments are along {statistic.channel_dim}")
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        rows = statistic.rows(weight.detach()).to(dtype)
        if not bool(rows.isfinite().all()):
            raise ValueError("the weight has values that are not finite")
        if not bool(statistic.sums.isfinite().all()):
            raise ValueError("second moments that are not finite: the data or the layers before gave NaN or infinity")
        problem = cls(weight, rows, statistic, calculator)
        _, outputs, channels = to_slices(weight, channel_dim).shape
        if reason := calculator.why_not(outputs, channels):
            raise ValueError(f"weight of shape {tuple(weight.shape)} cannot be pruned to {calculator}: {reason}")
        return problem

    @property
    def matrices(self) -> Tensor:
        """``H``, ``(groups, d, d)`` or one for all, in the dtype of the rows, on their device."""
        sums = self.moments.sums
        return (sums[:1] if sums.stride(0) == 0 else sums).to(self.rows)

    # ------------------------------------------------------------------------------------------------------------ masks

    @property
    def positions(self) -> int:
        """How many columns of the rows each input channel has: the places of a kernel."""
        return 1 if self._packed else self.weight.shape[2:].numel()

    @property
    def _packed(self) -> bool:
        """Whether the groups are experts, each with a matrix of its own."""
        return is_packed(self.weight.ndim, self.moments.channel_dim)

    def mask(self, scores: Tensor) -> Tensor:
        """The mask of ``scores``, both ``(groups, outputs, d)``, or so many channels of all rows as there are."""
        if self._packed:
            return self.calculator(scores)
        groups, outputs, columns = scores.shape
        channels = columns // self.positions
        apart = scores.reshape(groups, outputs, channels, self.positions)
        if self.moments.channel_dim == 0:
            slices = apart.permute(3, 1, 0, 2).reshape(self.positions, outputs, groups * channels)
            mask = self.calculator(slices).view(self.positions, outputs, groups, channels).permute(2, 1, 3, 0)
        else:
            slices = apart.permute(3, 0, 1, 2).reshape(self.positions, groups * outputs, channels)
            mask = self.calculator(slices).view(self.positions, groups, outputs, channels).permute(1, 2, 3, 0)
        return mask.reshape(scores.shape)

    @property
    def step(self) -> int:
        """So many columns have a mask that the others do not change; all, where that is not known."""
        return self.calculator.multiples[1] * self.positions if self._in_groups else self.rows.shape[-1]

    @property
    def rows_apart(self) -> bool:
        """Whether each row has a mask of its own, so that it can be changed by itself."""
        return self._in_groups and self.calculator.multiples[0] == 1

    @property
    def _in_groups(self) -> bool:
        """Whether masks are chosen in groups of channels that lie inside the rows."""
        channels = self.rows.shape[-1] // self.positions
        return self.calculator.nm is not None and channels % self.calculator.multiples[1] == 0

    def summed(self, values: Tensor) -> Tensor:
        """The sum over what has one mask, a row or all: ``(groups, outputs, 1)``, or ``(1, 1, 1)``."""
        return values.sum(-1, keepdim=True) if self.rows_apart else values.sum().reshape(1, 1, 1)

    def least(self, values: Tensor) -> Tensor:
        """The least of what has one mask, in the shape of ``summed``."""
        return values.amin(-1, keepdim=True) if self.rows_apart else values.amin().reshape(1, 1, 1)

    # ---------------------------------------------------------------------------------------------------------- results

    def finished(self, rows: Tensor, mask: Tensor) -> Pruned:
        """``rows`` under ``mask`` as a weight: cast first, then each row as it is, or unchanged where that is better.

        So no row is farther from its dense output than the mask alone would have left it.
        """
        nothing = rows.new_zeros(())
        alone = torch.where(mask, self.rows, nothing)
        cast = torch.where(mask, rows, nothing).to(self.weight.dtype).to(rows.dtype)
        cast = torch.where(cast.isfinite().all(-1, keepdim=True), cast, alone)
        chosen = torch.where(self._better(cast, alone)[..., None], cast, alone)
        kept = self.moments.from_rows(mask).contiguous()
        return Pruned(kept, self.moments.from_rows(chosen).to(self.weight.dtype).contiguous())

    def _better(self, new: Tensor, old: Tensor) -> Tensor:
        """Which rows ``(groups, outputs)`` of ``new`` have at most the error of ``old``."""
        change, away = new - old, new + old - 2 * self.rows
        product = change @ self.matrices  # E(new) - E(old) = change H away^T: one product for both errors
        terms = product * away
        difference = terms.sum(-1)
        better = difference <= 0
        close = difference.abs() <= _CLOSE * terms.abs().sum(-1)
        for group, matrix in enumerate(self.matrices.expand(len(new), -1, -1)):
            rows = close[group].nonzero().squeeze(-1)
            if len(rows):
                exact = change[group, rows].double() @ matrix.double()
                better[group, rows] = (exact * away[group, rows].double()).sum(-1) <= 0
        return better


def require_damping(damping: float) -> None:
    """Raise ``ValueError`` for a ``damping`` that is no share."""
    if not 0 <= damping < float("inf"):
        raise ValueError(f"damping={damping:g} must be a share of the diagonal, at least 0 (0.01 is usual)")


def shifted(matrices: Tensor, by: Tensor | float) -> Tensor:
    """``matrices + by * I``, ``(groups, d, d)``; a diagonal entry that is zero then, of an input that is always 0, is 1."""
    found = matrices.clone()
    diagonal = found.diagonal(dim1=1, dim2=2)
    diagonal += by
    diagonal[diagonal <= 0] = 1
    return found


def cholesky(matrices: Tensor) -> Tensor:
    """Lower Cholesky factors of damped ``matrices``; damped more, with a warning, where one is singular still."""
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(matrices)
    more = _LEAST_DAMPING
    while bool(failed.any()):
        warnings.warn(f"second moments are singular: {more:g} of their mean is added to the diagonal", stacklevel=2)
        mean = matrices.diagonal(dim1=1, dim2=2).mean(1)[:, None]
        factors, failed = torch.linalg.cholesky_ex(shifted(matrices, more * mean))
        more *= 10
    return factors


def inverses(matrices: Tensor) -> Tensor:
    """The inverses of damped ``matrices``, each ``(d, d)``."""
    return torch.cholesky_inverse(cholesky(matrices))


def corrected(
    weight: Tensor, moments: SecondMoments, cross: Tensor, *, share: float = 1.0, damping: float = 0.3
) -> Tensor:
    """``weight`` changed so that on the inputs of ``moments`` it gives what it gave on others.

    The weights before it were pruned, so it is given ``y`` where the dense model has ``x``; ``cross``
    is ``sum of x y^T`` (``sparselab.statistics.cross_moments``), ``moments`` are those of ``y``. The
    ``W'`` nearest to ``share`` of the way from ``W y`` to ``W x``, with ``damping`` times the diagonal
    of ``H`` drawing it to ``W``: ``W' = W + share * W (cross - H) (H + damping diag(H))^-1``. In the
    dtype of ``weight``, computed in float32 (float64 for a float64 weight).
    """
    require_damping(damping)
    rows = moments.rows(weight.detach()).to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    matrices = moments.sums[: len(cross)].to(rows)
    norms = _norms(matrices)
    damped = shifted(_scaled(matrices, norms), damping)
    change = rows @ (cross.to(rows) - matrices) / norms @ inverses(damped) / norms
    return moments.from_rows(rows + share * change).to(weight.dtype)


def _norms(matrices: Tensor) -> Tensor:
    """The norm of each input, ``(groups, 1, d)``; of one that is always 0 it is far below all others."""
    norms = matrices.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()[:, None]
    return norms.clamp(min=_DEAD).maximum(norms.amax(-1, keepdim=True) * _DEAD)


def _scaled(matrices: Tensor, norms: Tensor) -> Tensor:
    """``matrices`` of inputs that are divided by their ``norms``."""
    return matrices / norms / norms.transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Correlations:
    """A ``Reconstruction`` whose inputs are scaled to norm 1 each: errors are the same, diagonals are.

    ``rows`` are the weights times ``norms``; ``matrices`` have ``1 + damping`` on the diagonal, and
    stand for ``H`` as ``rows`` do for the weights.
    """

    rows: Tensor
    matrices: Tensor
    norms: Tensor

    @classmethod
    def of(cls, problem: Reconstruction, damping: float) -> Self:
        """The scaled problem. Inputs that are always 0 have the least norms, so they are pruned first."""
        matrices = problem.matrices
        norms = _norms(matrices)
        return cls(problem.rows * norms, shifted(_scaled(matrices, norms), damping), norms)

    def drawn_together(self, rho: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """One round of ADMM with the penalty ``rho``: from ``sought``, dense rows and dual, and the mask to both anew."""
        inverse, wanted = inverses(shifted(self.matrices, rho)), self.rows @ self.matrices

        def round_of(sought: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            masked = torch.where(mask, sought, 0)
            dual = sought - masked
            return (wanted + rho * (masked - dual)) @ inverse, dual

        return round_of

    def weights(self, rows: Tensor) -> Tensor:
        """The weights of scaled ``rows``."""
        return rows / self.norms

    def least_squares(self, start: Tensor, mask: Tensor, steps: int) -> Tensor:
        """Rows under ``mask`` near ``self.rows``: so many ``steps`` of conjugate gradients from ``start``."""
        found = torch.where(mask, start, 0)
        left = torch.where(mask, (self.rows - found) @ self.matrices, 0)
        direction, size = left, left.square().sum(-1, keepdim=True)
        for _ in range(steps):
            product = torch.where(mask, direction @ self.matrices, 0)
            length = size / (direction * product).sum(-1, keepdim=True).clamp(min=_TINY)
            found = found + length * direction
            left = left - length * product
            before, size = size, left.square().sum(-1, keepdim=True)
            direction = left + size / before.clamp(min=_TINY) * direction
        return found
