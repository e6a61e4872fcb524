"""Mask primitives on any device: numba where the scores are in the CPU's memory, vectorised PyTorch elsewhere."""

from __future__ import annotations

from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RANKED_BY_PAIRS = 16
"""Largest M for which comparing all pairs of a group beats a selection network."""

_CHUNK_ELEMENTS = 1 << 24
"""Elements of the largest temporary: 64 MB of float32."""


def require_finite(scores: Tensor) -> None:
    """Raise ``ValueError`` if any score is NaN or infinite."""
    # A finite sum proves every term finite and reads the scores once; only a sum that overflowed needs the closer look.
    if not torch.isfinite(scores.sum()) and not (finite := torch.isfinite(scores)).all():
        raise_not_finite(int((~finite).sum()))


def raise_not_finite(count: int | None = None) -> None:
    """Raise the ``ValueError`` for scores of which some, or so many, are NaN or infinite."""
    found = "NaN or infinite scores" if count is None else f"{count} NaN or infinite scores"
    raise ValueError(f"{found}: a mask would be arbitrary there; find where the weights (or the saliency) diverged")


def largest(scores: Tensor, keep: int) -> Tensor:
    """Keep the ``keep`` largest ``|scores|`` of all; ties go to the lower index.

    Any shape, float dtype and device; a bool tensor of that shape. Raises ``ValueError`` for NaN or infinite scores.
    """
    require_finite(scores)
    if not keep:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.device.type != "cpu":
        return largest_torch(scores, keep)
    sizes, place = np.abs(as_numpy_floats(scores)).ravel(), scores.numel() - keep
    least = np.partition(sizes, place)[place]  # in vector registers: many times as fast as ``kthvalue``
    kept = sizes > least
    kept[np.flatnonzero(sizes == least)[: keep - np.count_nonzero(kept)]] = True
    return torch.from_numpy(kept).view(scores.shape)


def largest_torch(scores: Tensor, keep: int) -> Tensor:
    """``largest`` in PyTorch operations, for devices without a kernel of ours; ``keep`` is at least 1."""
    flat = scores.abs().reshape(-1)
    least = flat.kthvalue(flat.numel() - keep + 1).values
    kept = flat > least
    kept[(flat == least).nonzero()[: keep - int(kept.sum()), 0]] = True
    return kept.view(scores.shape)


def largest_of_rows(scores: Tensor, keep: int) -> Tensor:
    """Keep the ``keep`` largest ``|scores|`` of every row (the last dimension); ties go to the lower index.

    Any float dtype and device; a bool tensor of that shape. Raises ``ValueError`` for NaN or infinite scores.
    """
    require_finite(scores)
    if not keep or not scores.numel():
        return torch.zeros_like(scores, dtype=torch.bool)
    rows = scores.abs()
    least = (nth_largest if rows.device.type == "cpu" else nth_largest_torch)(rows, keep)
    kept = rows >= least
    tied = kept.sum(-1) > keep
    if tied.any():
        equal = (rows == least)[tied]
        room = keep - (rows > least)[tied].sum(-1, keepdim=True)
        kept[tied] &= ~equal | (equal.cumsum(-1) <= room)
    return kept


def nth_largest(rows: Tensor, n: int) -> Tensor:
    """The ``n``-th largest entry of every row (the last dimension, which stays, of size 1); on the CPU."""
    place = rows.shape[-1] - n
    return torch.from_numpy(np.partition(as_numpy_floats(rows), place)[..., place, None])


def nth_largest_torch(rows: Tensor, n: int) -> Tensor:
    """``nth_largest`` in PyTorch operations, for devices without a kernel of ours."""
    return rows.kthvalue(rows.shape[-1] - n + 1, dim=-1, keepdim=True).values


def top_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep the ``n`` largest ``|scores|`` of every ``m`` consecutive columns; ties go to the lower index.

    ``scores``: ``(rows, channels)``, any float dtype and device, ``channels % m == 0``. Returns a bool tensor of that
    shape and device. Raises ``ValueError`` for NaN or infinite scores. The same answer on every backend.
    """
    if scores.device.type != "cpu":
        require_finite(scores)
        if scores.device.type == "cuda":
            from sparselab.ops import cuda
            from sparselab.ops.cuda import device, masks

            if masks.takes(scores, m) and cuda.missing() is None:
                return masks.top_n_of_m(scores, n, m, device.device_of(scores))
        return top_n_of_m_torch(scores, n, m)
    from sparselab.ops import mask_kernels

    return _checked(*mask_kernels.top_n_of_m(as_numpy_floats(scores), n, m))


def top_n_of_m_torch(scores: Tensor, n: int, m: int) -> Tensor:
    """``top_n_of_m`` in PyTorch operations, for devices without a kernel of ours."""
    groups = scores.abs().reshape(-1, m)
    if n == 1:  # argmax takes the first of equals
        first = groups.argmax(dim=1, keepdim=True)
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, first, True).reshape(scores.shape)
    columns = groups.T.contiguous()
    kept = _kept_by_pairs(columns, n) if m <= _RANKED_BY_PAIRS else _kept_by_network(columns, n)
    return kept.T.reshape(scores.shape)


def _kept_by_pairs(columns: Tensor, n: int) -> Tensor:
    """The ``n`` largest of each group; entry i of all groups is ``columns[i]``."""
    m = len(columns)
    # An entry beats as many of its group as it wins comparisons; against a later entry it also wins
    # when they are equal.
    # Taking lost ones off the later entry instead of adding won ones to it leaves entry j short by j.
    wins = torch.arange(m, dtype=torch.int8, device=columns.device)[:, None].repeat(1, columns.shape[1])
    for i, j in combinations(range(m), 2):
        first_wins = (columns[i] >= columns[j]).view(torch.int8)
        wins[i] += first_wins
        wins[j] -= first_wins
    kept: Tensor = wins >= m - n
    return kept


def _kept_by_network(columns: Tensor, n: int) -> Tensor:
    """The same by the n-th largest of each group, found by maxima and minima of whole columns.

    Ties are dealt out in turn.
    """
    lines = list(columns)
    for i, j in _selection_network(n, len(columns)):
        lines[i], lines[j] = torch.maximum(lines[i], lines[j]), torch.minimum(lines[i], lines[j])
    least = lines[n - 1]
    kept: Tensor = columns > least
    room = n - kept.sum(0, dtype=torch.int32)
    for column, mine in zip(columns, kept):
        tie = column == least
        mine |= tie & (room > 0)
        room -= tie.view(torch.int8)
    return kept


@cache
def _selection_network(n: int, m: int) -> list[tuple[int, int]]:
    """Which of ``m`` lines to compare, the larger to the first, so that line ``n - 1`` ends with the n-th largest.

    Batcher's odd-even merge sort (Knuth, The Art of Computer Programming 3, section 5.2.2, algorithm M), less what that
    line does not depend on.

    >>> _selection_network(1, 4)
    [(0, 2), (1, 3), (0, 1)]
    """
    comparisons = []
    top = 1 << (m - 1).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            comparisons += [(i, i + d) for i in range(m - d) if i & p == r]
            if q == p:
                break
            q, r, d = q >> 1, p, q - p
        p >>= 1
    needed, kept = {n - 1}, []
    for pair in reversed(comparisons):
        if not needed.isdisjoint(pair):
            needed.update(pair)
            kept.append(pair)
    return kept[::-1]


def greedy_blocks(scores: Tensor, n: int, m: int) -> Tensor:
    """In every ``m`` x ``m`` block take entries by falling ``|score|`` while their row and column hold under ``n``.

    ``scores``: ``(rows, channels)``, any float dtype and device, both divisible by ``m``; ties go to the lower row,
    then column. Returns a bool tensor of that shape and device. Raises ``ValueError`` for NaN or infinite scores.
    """
    if scores.device.type != "cpu":
        require_finite(scores)
        return greedy_blocks_torch(scores, n, m)
    from sparselab.ops import mask_kernels

    return _checked(*mask_kernels.greedy_blocks(as_numpy_floats(scores), n, m))


def greedy_blocks_torch(scores: Tensor, n: int, m: int) -> Tensor:
    """``greedy_blocks`` in PyTorch operations, for devices without a kernel of ours."""
    blocks = to_blocks(scores.abs(), m)
    free = torch.ones_like(blocks, dtype=torch.bool)
    kept = torch.zeros_like(free)
    for _ in range(m * n):
        # Scores are not negative, so -1 never wins while an entry is free.
        best = torch.where(free, blocks, -1).argmax(dim=1, keepdim=True)
        kept.scatter_(1, best, free.gather(1, best) | kept.gather(1, best))
        square = kept.view(-1, m, m)
        full = (square.sum(1, keepdim=True) >= n) | (square.sum(2, keepdim=True) >= n)
        free &= ~(full.reshape(free.shape) | kept)
    return from_blocks(kept, scores.shape, m)


def best_blocks(scores: Tensor, n: int, m: int) -> Tensor:
    """In every ``m`` x ``m`` block the best choice that keeps ``n`` in each row and each column.

    Tries all choices (90 for 2 of 4), so ``m`` must be small. ``scores``: ``(rows, channels)``, any float dtype and
    device, both divisible by ``m``. Returns a bool tensor. Sums are float32 (float64 for float64 scores); between
    equal sums the first choice in lexicographic order wins. Raises ``ValueError`` for NaN or infinite scores.
    """
    if scores.device.type != "cpu":
        require_finite(scores)
        return best_blocks_torch(scores, n, m)
    from sparselab.ops import mask_kernels

    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    values = as_numpy_floats(without_overflow(scores.detach().to(dtype), n * m))
    return _checked(*mask_kernels.best_blocks(values, block_choices(n, m).numpy(), m))


def best_blocks_torch(scores: Tensor, n: int, m: int) -> Tensor:
    """``best_blocks`` in PyTorch operations, for devices without a kernel of ours."""
    choices = block_choices(n, m).to(scores.device)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    blocks = to_blocks(without_overflow(scores.abs().to(dtype), n * m), m)
    weights = choices.to(dtype).T.contiguous()
    best = [
        (chunk @ weights).argmax(dim=1) for chunk in torch.split(blocks, max(1, _CHUNK_ELEMENTS // choices.shape[0]))
    ]
    return from_blocks(choices[torch.cat(best)], scores.shape, m)


@cache
def block_choices(n: int, m: int) -> Tensor:
    """Every ``m`` x ``m`` choice with ``n`` in each row and column, as bools ``(choices, m * m)``; larger rows first.

    >>> block_choices(2, 4).shape
    torch.Size([90, 16])
    """
    rows = [tuple(column in kept for column in range(m)) for kept in combinations(range(m), n)]
    valid = [rows_ for rows_ in product(rows, repeat=m) if all(sum(column) == n for column in zip(*rows_))]
    return torch.tensor(valid, dtype=torch.bool).reshape(len(valid), m * m)


def without_overflow(values: Tensor, terms: int) -> Tensor:
    """``values``, by a power of two smaller where a sum of ``terms`` of them could overflow."""
    if values.numel():
        lowest, highest = torch.aminmax(values)
        if float(torch.maximum(-lowest, highest)) > torch.finfo(values.dtype).max / terms:
            return values * 2.0 ** -terms.bit_length()
    return values


def to_blocks(matrix: Tensor, m: int) -> Tensor:
    """The ``m`` x ``m`` blocks of ``(rows, channels)``, ``(blocks, m * m)``, left to right, then down."""
    rows, channels = matrix.shape
    return matrix.reshape(rows // m, m, channels // m, m).transpose(1, 2).reshape(-1, m * m)


def from_blocks(blocks: Tensor, shape: torch.Size, m: int) -> Tensor:
    """The inverse of ``to_blocks``: a matrix of ``shape``."""
    rows, channels = shape
    return blocks.reshape(rows // m, channels // m, m, m).transpose(1, 2).reshape(rows, channels)


def _checked(mask: NDArray[np.bool_], finite: bool) -> Tensor:
    if not finite:
        raise_not_finite()
    return torch.from_numpy(mask)


def as_numpy_floats(scores: Tensor) -> NDArray[np.floating[Any]]:
    """A C-contiguous float32 or float64 array of CPU ``scores``; half precision widens, which changes no comparison."""
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    array: NDArray[np.floating[Any]] = scores.detach().contiguous().numpy()
    return array
