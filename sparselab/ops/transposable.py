"""Masks that are N:M along rows and columns at once, for blocks too large to try every choice: exact, and fast.

In a block of M x M entries, the masks with N in every row and column are the corners of a
transportation polytope, so a linear program over it has one of them as its solution: that is the
exact way (Hubara et al. 2021, "Accelerated Sparse Neural Training", poses it as a min-cost flow).
The fast way takes entries greedily, fills up what that leaves short, and lets every two rows, then
every two columns, exchange entries. TSENOR (Meng et al. 2025, arXiv 2505.23949) completes in the
same way what it rounds from an optimal transport.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from sparselab.core.progress import late_bar
from sparselab.ops.masks import (
    as_numpy_floats,
    from_blocks,
    greedy_blocks,
    greedy_blocks_torch,
    require_finite,
    to_blocks,
)

_PROGRAM_ENTRIES = 8192
"""Entries of the blocks that are solved in one program.

Enough that setting it up costs little, and few enough that pivots stay cheap.
"""


def fast_blocks(scores: Tensor, n: int, m: int) -> Tensor:
    """In every ``m`` x ``m`` block a choice that keeps ``n`` in each row and each column, near the best.

    ``scores``: ``(rows, channels)``, any float dtype and device, both divisible by ``m``. Starts
    from ``greedy_blocks``. A row and a column that it left short take one entry each, and another
    row moves an entry out of their way, whichever change of three keeps the most. Then every two
    rows exchange entries until none gains, and every two columns. A weight that such a mask has
    pruned keeps it, if it has no zeros among what is kept. Returns a bool tensor. Raises
    ``ValueError`` for NaN or infinite scores. The same answer on every device.
    """
    if scores.device.type != "cpu":
        require_finite(scores)
        return fast_blocks_torch(scores, n, m)
    mask = greedy_blocks(scores, n, m)
    _improve_on_cpu(scores, mask, n, m)
    return mask


def fast_blocks_torch(scores: Tensor, n: int, m: int) -> Tensor:
    """``fast_blocks`` in PyTorch operations, for devices without a kernel of ours."""
    kept = to_blocks(greedy_blocks_torch(scores, n, m), m).reshape(-1, m, m).clone()
    # Half precision widens, which changes no comparison.
    value = scores.abs().to(torch.float64 if scores.dtype == torch.float64 else torch.float32)
    value = to_blocks(value, m).reshape(-1, m, m)
    _complete(value / 4, kept, n)  # or a sum of two could overflow
    _exchange(value, kept, m)
    _exchange(value.transpose(1, 2), kept.transpose(1, 2), m)
    return from_blocks(kept.reshape(-1, m * m), scores.shape, m)


def exact_blocks(scores: Tensor, n: int, m: int) -> Tensor:
    """In every ``m`` x ``m`` block the best choice that keeps ``n`` in each row and each column, by linear programming.

    ``scores``: ``(rows, channels)``, any float dtype and device, both divisible by ``m``; they are
    solved in float64 on the CPU (HiGHS), some blocks per program, to 1e-7 of a block's largest
    score; exchanges as in ``fast_blocks`` settle what is closer. A progress bar shows up when it
    takes longer than two seconds. Returns a bool tensor on the device of the scores. Raises
    ``ValueError`` for NaN or infinite scores.
    """
    require_finite(scores)
    blocks = to_blocks(scores.detach().abs().double().cpu(), m).numpy()
    chunks = np.array_split(blocks, max(1, -(-blocks.size // _PROGRAM_ENTRIES)))
    solved: list[NDArray[np.bool_]] = []
    with late_bar(f"2d masks, {n}:{m}", "block", total=len(blocks)) as bar:
        for chunk in chunks:
            solved.append(_solve(chunk, n, m))
            bar.update(len(chunk))
    mask = from_blocks(torch.from_numpy(np.concatenate(solved)), scores.shape, m).contiguous()
    _improve_on_cpu(scores.cpu(), mask, n, m)
    return mask.to(scores.device)


def _solve(blocks: NDArray[np.float64], n: int, m: int) -> NDArray[np.bool_]:
    largest = blocks.max(axis=1, keepdims=True)
    values = blocks / np.where(largest > 0, largest, 1.0)
    sums = _sums(len(blocks), m)
    solution = linprog(
        -values.ravel(),
        A_eq=sums,  # type: ignore[call-overload]
        b_eq=np.full(sums.shape[0], n),
        bounds=(0, 1),
        method="highs-ds",  # the simplex method ends at a corner, which is a mask
    )
    if not solution.success:
        raise RuntimeError(f"HiGHS did not solve {len(blocks)} blocks of {m} x {m}: {solution.message}")
    return np.asarray(solution.x > 0.5).reshape(len(blocks), m * m)


@cache
def _sums(count: int, m: int) -> sparse.csc_array:
    """The matrix that takes the entries of ``count`` blocks to the sums of their rows and columns."""
    ones, eye = np.ones((1, m)), np.eye(m)
    one_block = np.concatenate([np.kron(eye, ones), np.kron(ones, eye)])
    return sparse.csc_array(sparse.kron(sparse.eye_array(count), one_block))


def _improve_on_cpu(scores: Tensor, mask: Tensor, n: int, m: int) -> None:
    from sparselab.ops.transposable_kernels import improve_blocks

    improve_blocks(as_numpy_floats(scores), mask.numpy(), n, m, np.concatenate(_rounds(m)))


@cache
def _rounds(m: int) -> tuple[NDArray[np.int64], ...]:
    """Every pair of ``m`` rows, in rounds in which no row plays twice.

    >>> [pairs.tolist() for pairs in _rounds(4)]
    [[[0, 3], [1, 2]], [[0, 2], [1, 3]], [[0, 1], [2, 3]]]
    """
    players = m + m % 2  # an odd one out meets nobody
    ring = list(range(players))
    rounds = []
    for _ in range(players - 1):
        pairs = [sorted((ring[seat], ring[-1 - seat])) for seat in range(players // 2)]
        rounds.append(np.array([pair for pair in pairs if pair[1] < m], np.int64).reshape(-1, 2))
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return tuple(rounds)


def _complete(value: Tensor, kept: Tensor, n: int) -> None:
    """Fill up, in place, rows and columns that hold under ``n``; ``(blocks, m, m)``."""
    m = value.shape[1]
    while len(short := (kept.sum((1, 2)) < n * m).nonzero()[:, 0]):
        mask, scores = kept[short], value[short]
        block = torch.arange(len(short), device=value.device)
        row = (mask.sum(2) < n).int().argmax(1)
        column = (mask.sum(1) < n).int().argmax(1)
        gains = (scores[block, row][:, None, :] + scores[block, :, column][:, :, None]) - scores
        fits = mask & ~mask[block, row][:, None, :] & ~mask[block, :, column][:, :, None]
        best = torch.where(fits, gains, -torch.inf).flatten(1).argmax(1)
        from_row, from_column = best // m, best % m
        kept[short, from_row, from_column] = False
        kept[short, row, from_column] = True
        kept[short, from_row, column] = True


def _exchange(value: Tensor, kept: Tensor, m: int) -> None:
    """Let every two rows of each block exchange entries, in place, until that gains nothing; ``(blocks, m, m)``."""
    for pairs in _rounds(m):
        one, two = torch.from_numpy(pairs).to(value.device).unbind(1)
        gains = value[:, one] - value[:, two]
        mine, theirs = kept[:, one], kept[:, two]
        while True:
            give = torch.where(mine & ~theirs, gains, torch.inf)
            take = torch.where(theirs & ~mine, gains, -torch.inf)
            given, taken = give.argmin(2, keepdim=True), take.argmax(2, keepdim=True)
            better = take.gather(2, taken) > give.gather(2, given)
            if not bool(better.any()):
                break
            moved = torch.zeros_like(mine).scatter_(2, given, better).scatter_(2, taken, better)
            mine, theirs = mine ^ moved, theirs ^ moved
        kept[:, one], kept[:, two] = mine, theirs
