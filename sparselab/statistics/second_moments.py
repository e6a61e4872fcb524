"""``H = sum of x x^T``: which inputs of a weight come together, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sparselab.core.moves import Indices, Move
from sparselab.core.weight_matrix import is_packed
from sparselab.statistics.input_norms import InputNorms, no_token
from sparselab.statistics.layers import Given, WeightUse
from sparselab.statistics.rows import columns_of, first_output, from_rows, to_rows
from sparselab.statistics.windows import PIECE

_STRIP = 384
"""Columns of second moments that are computed at once; wide enough for a matrix product to be fast."""


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """The second moments of one weight's inputs: ``sums[g] = sum of x x^T``, for each group.

    ``x`` is what one output of the layer is a product with: its output is ``rows(weight) @ x``. Of
    a Linear layer that is the input of one token, of a convolution the window that the kernel lies
    on (for a transposed one: on the input with zeros between neighbours).

    ``sums``: ``(groups, d, d)``, float32 or as asked, on the device where the model computes;
    groups that see the same (query, key and value in self-attention) share one matrix in memory.
    Rows and columns of ``H`` are those of ``rows(weight)``: input channels of the group, then
    kernel positions, in the order of the weight; for ``channel_dim=1`` the columns of
    ``weight.flatten(1)``, for ``channel_dim=0`` of ``weight.transpose(0, 1).flatten(1)``; packed
    experts (``channel_dim`` -1 or -2) are groups, and the columns are the input channels.
    ``counts``: how many ``x`` there were, for each group. ``shape`` is the weight's.

    Memory: ``groups * d * d`` numbers for each weight, and while collecting once more for one
    weight at a time, and a piece of unfolded input of at most 64 MiB (in float32).

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> moments = SecondMoments((x.T @ x)[None], (2,), (3, 2))
    >>> moments.norms().norms  # of the columns of x
    tensor([[3.1623, 4.4721]], dtype=torch.float64)
    """

    sums: Tensor
    counts: tuple[int, ...]
    shape: tuple[int, ...]
    channel_dim: int = 1

    @property
    def groups(self) -> int:
        """How many matrices there are: those of the weight's first dimension."""
        return len(self.sums)

    @property
    def _is_packed(self) -> bool:
        return is_packed(len(self.shape), self.channel_dim)

    def rows(self, weight: Tensor) -> Tensor:
        """``weight`` as ``(groups, outputs, d)``, whose columns are those of ``sums``.

        Raises ``ValueError`` when ``weight`` has not the ``shape`` of the one that these belong to,
        and naming the experts that no token reached: zeros would say that their weights are worth
        nothing.
        """
        if tuple(weight.shape) != self.shape:
            raise ValueError(f"second moments of a weight of shape {self.shape}, the weight has {tuple(weight.shape)}")
        unseen = [number for number, count in enumerate(self.counts) if not count]
        if self._is_packed and unseen:
            raise ValueError(no_token(unseen))
        return to_rows(weight, self.channel_dim, self.groups)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The weight that ``rows`` ``(groups, outputs, d)`` belong to."""
        return from_rows(rows, self.shape, self.channel_dim)

    def norms(self) -> InputNorms:
        """The norm of every column, from the diagonals: what Wanda and Ria score by.

        Of a layer whose outputs see every input once, they are its ``InputNorms``. A convolution's
        differ for each kernel position, and count an input as often as windows see it.
        """
        if self._is_packed:
            known = self.sums.diagonal(dim1=1, dim2=2).double().cpu().clamp(min=0).sqrt()
            known[[not count for count in self.counts]] = torch.nan
            return InputNorms(known.unsqueeze(1 if self.channel_dim == -1 else 2), self.channel_dim, self.groups)
        channels_first = self.channel_dim == 0
        outputs = self.shape[0] // self.groups if self.groups > 1 and not channels_first else 1
        each = self.sums.diagonal(dim1=1, dim2=2).double().cpu().clamp(min=0).sqrt()
        shape = (self.shape[0], 1, *self.shape[2:]) if channels_first else (self.groups * outputs, *self.shape[1:])
        rows = each[:, None].expand(-1, outputs, -1)
        return InputNorms(from_rows(rows, shape, self.channel_dim), self.channel_dim, self.groups)

    def moved(self, move: Move) -> SecondMoments:
        """The second moments of what the weight sees after ``move``.

        Rows and columns are in its order, and so are groups.

        Raises ``ValueError`` for a move of another weight, and one that mixes the inputs of groups.
        """
        if move.shape != self.shape:
            raise ValueError(f"second moments of a weight of shape {self.shape} cannot follow a move of {move.shape}")
        group, column = self._places_before(move)
        if (group != group[:, :1]).any():
            raise ValueError(f"a move of {move.names[0]!r} that mixes the inputs of its groups has no second moments")
        before = group[:, 0].tolist()
        counts = tuple(self.counts[number] for number in before)
        alike = self.sums.stride(0) == 0 and bool((column == column[0]).all())
        moved = [
            self.sums[old].index_select(0, index).index_select(1, index)
            for old, index in zip(before, torch.from_numpy(column).to(self.sums.device), strict=True)
            if not alike or old == before[0]
        ]
        sums = torch.stack(moved).expand(self.groups, -1, -1)
        return SecondMoments(sums, counts, self.shape, self.channel_dim)

    def _places_before(self, move: Move) -> tuple[Indices, Indices]:
        """The group and the column, ``(groups, d)`` each, that columns had before ``move``."""
        now = np.stack([self._coordinates(dim) for dim in range(len(self.shape))])
        span = slice(move.first, move.last + 1)
        flat = np.ravel_multi_index(tuple(now[span]), self.shape[span])
        now[span] = np.unravel_index(move.order[flat], self.shape[span])
        if self._is_packed:
            return now[0], now[self.channel_dim]
        each = self.shape[0] // self.groups
        group, rest = np.divmod(now[0], each)
        if self.channel_dim == 0:
            return group, np.ravel_multi_index((rest, *now[2:]), (each, *self.shape[2:]))
        return group, np.ravel_multi_index(tuple(now[1:]), self.shape[1:])

    def _coordinates(self, dim: int) -> Indices:
        """The index in ``dim`` of the entries in the first row of each group, ``(groups, d)``."""
        sizes = [-1 if other == dim else 1 for other in range(len(self.shape))]
        index = torch.arange(self.shape[dim]).reshape(sizes).expand(self.shape)
        return first_output(index, self.channel_dim, self.groups).numpy()

    # ------------------------------------------------------------------------------------------------------ collecting

    @classmethod
    def bytes_of(cls, layer: WeightUse, dtype: torch.dtype) -> int:
        """How much memory the sums of one weight take."""
        columns = columns_of(layer.weight.shape, layer.channel_dim, layer.groups)
        return layer.groups * columns**2 * dtype.itemsize

    @classmethod
    def of_call(cls, given: Given, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The upper triangle of ``H`` of one call, ``(groups, d, d)`` or one for all, and the numbers of ``x``."""
        found = [_product(given, number, dtype) for number in range(len(given.inputs))]
        if len(found) == 1:
            return found[0]
        return torch.cat([sums for sums, _ in found]), torch.cat([count for _, count in found])

    @classmethod
    def of_sums(cls, sums: tuple[Tensor, ...], layer: WeightUse) -> Self:
        """The second moments from the sums over all calls."""
        moments, counts = sums
        _mirror(moments)
        shared = moments.to(layer.weight.device).expand(layer.groups, -1, -1)
        return cls(shared, tuple(counts.expand(layer.groups).tolist()), tuple(layer.weight.shape), layer.channel_dim)


def reconstruction_error(weight: Tensor, new_weight: Tensor, moments: SecondMoments) -> float:
    """How much of a layer's output ``new_weight`` gets wrong, in percent of its square.

    ``100 * ||X W^T - X W'^T||^2 / ||X W^T||^2 = 100 * tr((W - W') H (W - W')^T) / tr(W H W^T)``,
    over the inputs that ``moments`` were collected from, bias left out; multiplied in the dtype of
    their sums, and summed in float64. 0 for the weight itself; infinite where a layer that gave
    nothing but zeros gives something now. Raises ``ValueError`` when a weight has not the shape that
    ``moments`` belong to.

    >>> moments = SecondMoments(torch.diag(torch.tensor([9.0, 1.0]))[None], (10,), (1, 2))
    >>> weight = torch.tensor([[1.0, 1.0]])
    >>> reconstruction_error(weight, torch.tensor([[1.0, 0.0]]), moments)
    10.0
    """
    old, new = (moments.rows(each.detach()).to(moments.sums.device, torch.float64) for each in (weight, new_weight))
    lost, whole = (_energy(rows.to(moments.sums.dtype), moments) for rows in (old - new, old))
    if whole <= 0:
        return 0.0 if lost <= 0 else math.inf
    return 100 * max(lost, 0.0) / whole


def cross_moments(given: Given, other: Given, dtype: torch.dtype = torch.float32) -> Tensor:
    """``sum of x y^T``, ``(groups, d, d)`` or one for all, of two calls that belong together.

    ``x`` is what a weight was ``given`` at a place of the data, ``y`` what it was given there in the
    ``other`` call: of another model, or of the same one with other weights before it. Positions that
    do not count in ``given`` count for nothing.
    """
    found = []
    for number in range(len(given.inputs)):
        pairs = zip(_matrices(given, number), _matrices(other, number), strict=True)
        sums = [
            _counted(x, those, dtype).permute(1, 2, 0) @ y.to(dtype).transpose(0, 1) for (x, those), (y, _) in pairs
        ]
        found.append(torch.stack(sums).sum(0))
    return torch.cat(found)


def _counted(seen: Tensor, counted: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``seen``, ``(x, groups, d)``, with zeros where it does not count."""
    return seen.to(dtype) if counted is None else torch.where(counted[:, None, None], seen.to(dtype), 0)


def _energy(rows: Tensor, moments: SecondMoments) -> float:
    """The sum of squares of what ``rows`` give for the inputs of ``moments``; half of ``H``, which is symmetric, says it."""
    total = 0.0
    for start in range(0, rows.shape[-1], _STRIP):
        strip = slice(start, start + _STRIP)
        product = rows[..., strip] @ moments.sums[:, strip, strip]
        if start:
            product.add_(rows[..., :start] @ moments.sums[:, :start, strip], alpha=2)
        total += float(product.mul_(rows[..., strip]).sum(dtype=torch.float64))
    return total


def _matrices(given: Given, number: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Pieces of what a layer's rows meet, ``(x, groups, d)``, and which ``x`` count."""
    inputs, counted = given.inputs[number], given.counted[number]
    if given.windows is not None:
        for windows, those in given.windows.pieces(inputs, counted):
            yield windows.reshape(len(windows), given.layer.groups, -1), those
        return
    positions, channels = inputs.shape[:-1].numel(), inputs.shape[-1]
    vectors, flags = inputs.reshape(positions, 1, channels), None if counted is None else counted.reshape(-1)
    step = max(1, PIECE // max(1, channels))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        yield vectors[part], None if flags is None else flags[part]


def _product(given: Given, number: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The upper triangle of ``sum of x x^T``, ``(groups, d, d)``, and how many ``x`` there were, int64 ``(1,)``."""
    layer, device = given.layer, given.inputs[number].device
    groups = 1 if given.windows is None else layer.groups
    columns = columns_of(layer.weight.shape, layer.channel_dim, layer.groups)
    total = torch.zeros((groups, columns, columns), dtype=dtype, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)
    for piece, counted in _matrices(given, number):
        seen = _counted(piece, counted, dtype)
        _add_upper(total, seen)
        count += len(seen) if counted is None else counted.sum()
    return total, count


def _add_upper(total: Tensor, seen: Tensor) -> None:
    """Add ``sum of x x^T`` to the upper triangles of ``total``, strip after strip: little more than half the work."""
    left, right = seen.permute(1, 2, 0), seen.transpose(0, 1)
    for start in range(0, total.shape[-1], _STRIP):
        strip = slice(start, start + _STRIP)
        total[:, strip, start:].baddbmm_(left[:, strip], right[:, :, start:])


def _mirror(total: Tensor) -> None:
    """Copy what ``_add_upper`` left out below its strips from above them."""
    for start in range(0, total.shape[-1], _STRIP):
        end = start + _STRIP
        total[:, end:, start:end] = total[:, start:end, end:].transpose(1, 2)
