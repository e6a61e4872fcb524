"""What is searched: saliency matrices and the columns of the units that one order moves in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparselab.core.patterns import Pattern
from sparselab.ops import errors
from sparselab.ops.matrix import LoadedMatrix
from sparselab.permutation.judges import LARGEST_BLOCK as LARGEST_BLOCK
from sparselab.permutation.judges import AlongChannels, Judge, judge_of
from sparselab.permutation.row_moments import RowMoments, forms

Order = NDArray[np.int64]
Matrix = NDArray[Any]

MAX_CHANNELS = 16_384
MAX_ELEMENTS = 2**28
_BLOCK = 2**24  # entries whose errors are counted at once in float64


@dataclass(frozen=True, eq=False)
class Term:
    """One consumer of the units: its scores and where the units sit in it.

    ``saliency`` is ``(rows, channels)``, non-negative and finite, a torch tensor (any float dtype, any device) or a
    numpy array; ``columns`` is int64 ``(size,)``, the flat column of unit ``u`` in the current order; ``weight`` scales
    what this consumer counts. Columns that no term names never move. Several terms on the *same* saliency object are
    one consumer that the units enter at several offsets.

    With ``moments`` orders are judged by errors, and in place of scores stands the weight matrix
    itself, signs and all.
    """

    saliency: torch.Tensor | Matrix
    columns: torch.Tensor | NDArray[np.integer[Any]]
    weight: float = 1.0
    moments: RowMoments | None = None


@dataclass(frozen=True, eq=False)
class _Consumer:
    """A saliency matrix with every run of columns that the units occupy in it."""

    saliency: Matrix
    runs: tuple[NDArray[np.int64], ...]
    weight: float
    moments: RowMoments | None = None

    def retained(self, judge: Judge, columns: NDArray[np.int64]) -> float:
        """What masks keep with the columns in that order, counted in float64."""
        if self.moments is None:
            return self.weight * judge.retained(self.saliency, columns)
        groups = columns.reshape(-1, judge.m)
        return sum(float(each.worth(groups, judge.n).sum()) for each in self._forms())

    def ideal(self, judge: Judge) -> float:
        """What no order can exceed: the best of every row, or nothing lost."""
        if self.moments is None:
            return self.weight * judge.ideal(self.saliency)
        return errors.allowance(judge.n, judge.m) * self.total()

    def total(self) -> float:
        """The saliency, or what the entries give by themselves."""
        if self.moments is None:
            return self.weight * float(self.saliency.sum(dtype=np.float64))
        return sum(float(each.own.sum()) for each in self._forms())

    def _forms(self) -> Iterator[errors.Forms]:
        """The quadratic forms of some rows at a time."""
        assert self.moments is not None
        step = max(1, _BLOCK // max(1, self.saliency.shape[1]))
        for start in range(0, len(self.saliency), step):
            rows = slice(start, start + step)
            yield forms([(self.saliency[rows], self.moments.rows(rows), self.weight)], self.saliency.shape[1])


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """``size`` units, moved by one order in every one of ``terms``.

    What orders retain is saliency or, where terms have moments, what the entries of the weights
    give by themselves (``sum of w_i^2 H_ii``) less the least error of every group of every row
    (``sparselab.ops.errors``): a constant less the error, so that gains are errors saved.

    Raises ``ValueError`` where scores are not a finite non-negative matrix, where columns are out
    of range, repeated or not ``size`` many, and above 2^28 scores per term or 16,384 units.

    >>> problem = SearchProblem.from_matrix(np.array([[9.0, 8, 7, 0, 0, 1, 0, 0]]))
    >>> float(problem.retained(None, "2:4")), float(problem.retained([0, 1, 4, 6, 2, 5, 3, 7], "2:4"))
    (18.0, 25.0)
    """

    terms: tuple[Term, ...] = field(repr=False)
    size: int

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("a search problem needs at least one term: a saliency matrix and the columns of its units")
        if not 0 < self.size <= MAX_CHANNELS:
            raise ValueError(
                f"a problem of {self.size} units is out of range: between 1 and {MAX_CHANNELS} can be searched"
            )
        object.__setattr__(self, "terms", tuple(self.terms))
        if len({term.moments and term.moments.updated for term in self.terms}) > 1:
            raise ValueError("terms are judged by saliency, by errors, or by errors after an update: all by the same")
        _ = self.consumers

    @classmethod
    def from_matrix(cls, matrix: torch.Tensor | Matrix, moments: RowMoments | None = None) -> SearchProblem:
        """The one-term problem of a matrix ``(rows, channels)``: every column is a unit.

        It holds saliency or, with ``moments``, weights.
        """
        channels = matrix.shape[-1] if matrix.ndim else 0
        return cls((Term(matrix, np.arange(channels, dtype=np.int64), moments=moments),), channels)

    @property
    def by_errors(self) -> bool:
        """Whether orders are judged by errors, not by saliency."""
        return self.terms[0].moments is not None

    @property
    def rows(self) -> int:
        """The rows of all consumers."""
        return sum(len(consumer.saliency) for consumer in self.consumers)

    @cached_property
    def consumers(self) -> tuple[_Consumer, ...]:
        """The distinct saliency matrices, each with all the runs of columns that move in it."""
        found: dict[int, _Consumer] = {}
        for number, term in enumerate(self.terms):
            key = id(term.saliency)
            where = f"term {number}: " if len(self.terms) > 1 else ""
            known = found.get(key)
            signed = term.moments is not None
            saliency = known.saliency if known else _as_scores(term.saliency, where, signed)
            columns = _as_columns(term.columns, self.size, saliency.shape[1], where)
            if known is None:
                found[key] = _Consumer(saliency, (columns,), _as_weight(term.weight, where), term.moments)
                if term.moments is not None:
                    term.moments.check(saliency.shape[0], saliency.shape[1], where)
            elif known.weight != term.weight:
                raise ValueError(
                    f"term {number} shares its saliency with a term of weight {known.weight}, not {term.weight}"
                )
            else:
                found[key] = replace(known, runs=(*known.runs, columns))
        for consumer in found.values():
            moved = np.concatenate(consumer.runs)
            if len(np.unique(moved)) != len(moved):
                raise ValueError("two terms on one saliency name the same column: a column is one unit's")
        return tuple(found.values())

    def check(self, pattern: str | Pattern | Judge) -> tuple[int, int]:
        """The N and M of a pattern that orders can be judged by; ``ValueError`` for another one.

        Every consumer's channels must divide into groups of M. For 2d masks rows must divide into blocks of M too, and
        M is at most 4.
        """
        judge = self._judge(pattern)
        return judge.n, judge.m

    def _judge(self, pattern: str | Pattern | Judge) -> Judge:
        judge = judge_of(pattern)
        if self.by_errors and not isinstance(judge, AlongChannels):
            raise ValueError(f"errors judge masks along the channels, '{judge.n}:{judge.m}', not 2d masks")
        m, multiple = judge.m, judge.row_multiple
        others = ", or leave this consumer out" if len(self.consumers) > 1 else ""
        for consumer in self.consumers:
            rows, channels = consumer.saliency.shape
            if channels % m:
                padded = -(-channels // m) * m
                raise ValueError(
                    f"{channels} channels do not divide into groups of {m}: pad the scores with zero columns to "
                    f"{padded}{others}"
                )
            if rows % multiple:
                raise ValueError(
                    f"{rows} rows do not divide into blocks of {multiple}: pad the scores with rows of zeros{others}"
                )
        return judge

    def has_searchable(self, m: int) -> bool:
        """Whether any run of columns fills whole groups: if not, there is nothing to search."""
        return any(fills_groups(run, m) for _, run in self._runs())

    def searchable(self, m: int) -> Matrix:
        """What strategies search, ``(rows, size)``: all runs of columns that fill whole groups, weighted and stacked.

        No rows where no run does. float64 where a consumer is, else float32. May be a view of a consumer's scores.
        """
        parts = [
            consumer.saliency[:, run[0] : run[0] + self.size] * np.asarray(consumer.weight, consumer.saliency.dtype)
            if consumer.weight != 1
            else consumer.saliency[:, run[0] : run[0] + self.size]
            for consumer, run in self._runs()
            if fills_groups(run, m)
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros((0, self.size), np.float32)

    def resolve(self, judge: Judge, backend: str) -> str:
        """The backend that ``backend`` stands for; errors have none on a GPU."""
        if not self.by_errors:
            return judge.resolve(backend, self.rows, self.size)
        judge.check_backend(backend)
        if backend == "cuda":
            raise ValueError("orders judged by errors are searched by backend 'cpu' ('auto') or 'reference'")
        return "cpu" if backend == "auto" else backend

    def load(self, judge: Judge, backend: str) -> LoadedMatrix:
        """What strategies search, on a resolved ``backend``."""
        if not self.by_errors:
            return judge.load(self.searchable(judge.m).T, backend)
        parts = [
            (consumer.saliency[:, span], consumer.moments.columns(span), consumer.weight)
            for consumer, run in self._runs()
            if fills_groups(run, judge.m) and consumer.moments is not None
            for span in [slice(int(run[0]), int(run[0]) + self.size)]
        ]
        return errors.load(forms(parts, self.size), judge.n, judge.m, backend)

    def is_wholly_searchable(self, m: int) -> bool:
        """Whether what strategies search is, up to a constant, the whole objective."""
        return all(fills_groups(run, m) for _, run in self._runs())

    def retained(self, order: Any = None, pattern: str | Pattern | Judge = "2:4") -> float:
        """Retained saliency of all consumers with the units in ``order`` (``None``: as they are), counted in float64.

        Exact for any columns: groups are cut along the flat columns of each consumer, whatever shares them. For a 2d
        pattern what the best 2d masks retain, the rows staying where they are.
        """
        return sum(self.retained_each(order, pattern))

    def retained_each(self, order: Any = None, pattern: str | Pattern | Judge = "2:4") -> list[float]:
        """The share of each of ``consumers`` in ``retained``."""
        judge = self._judge(pattern)
        index = np.arange(self.size) if order is None else np.asarray(order)
        return [consumer.retained(judge, _moved(consumer, index)) for consumer in self.consumers]

    def ideal_each(self, pattern: str | Pattern | Judge = "2:4") -> list[float]:
        """The share of each of ``consumers`` in ``ideal``."""
        judge = self._judge(pattern)
        return [consumer.ideal(judge) for consumer in self.consumers]

    def total_each(self) -> list[float]:
        """The saliency of each of ``consumers``, counted in float64."""
        return [consumer.total() for consumer in self.consumers]

    def ideal(self, pattern: str | Pattern | Judge = "2:4") -> float:
        """Saliency that keeping the best N/M of every row would retain, with no structure, counted in float64."""
        return sum(self.ideal_each(pattern))

    def _runs(self) -> Iterator[tuple[_Consumer, NDArray[np.int64]]]:
        return ((consumer, run) for consumer in self.consumers for run in consumer.runs)


def fills_groups(columns: NDArray[np.int64], m: int) -> bool:
    """Whether units at ``columns`` fill whole groups, in the order in which they are numbered."""
    start, size = int(columns[0]), len(columns)
    return size % m == 0 and start % m == 0 and bool((columns == np.arange(start, start + size)).all())


def _as_scores(saliency: torch.Tensor | Matrix, where: str, signed: bool = False) -> Matrix:
    if isinstance(saliency, torch.Tensor):
        tensor = saliency.detach().cpu()
        array: Matrix = (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()).numpy()
    else:
        array = np.asarray(saliency)
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    if array.ndim != 2:
        raise ValueError(f"{where}the scores must be a matrix (rows, channels), got shape {array.shape}")
    if array.size > MAX_ELEMENTS:
        raise ValueError(
            f"{where}{array.size} scores are more than the limit of {MAX_ELEMENTS}: search a sample of the rows"
        )
    if array.size and not (
        (signed or array.min() >= 0) and np.isfinite(array.sum(dtype=np.float64))
    ):  # NaN fails the first
        raise ValueError(f"{where}scores must be non-negative and finite, and so must their sum")
    return array


def _as_columns(columns: Any, size: int, channels: int, where: str) -> NDArray[np.int64]:
    index = np.asarray(columns)
    if index.shape != (size,) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"{where}columns must be {size} integers, one per unit, got {index.dtype} of shape {index.shape}"
        )
    if index.min() < 0 or index.max() >= channels:
        raise ValueError(f"{where}column {index.max()} is outside the {channels} columns of the scores")
    if len(np.unique(index)) != size:
        raise ValueError(f"{where}columns name a column twice")
    return index.astype(np.int64)


def _as_weight(weight: float, where: str) -> float:
    if not 0 <= weight < np.inf:
        raise ValueError(f"{where}weight must be non-negative and finite, got {weight}")
    return float(weight)


def _moved(consumer: _Consumer, order: Order) -> NDArray[np.int64]:
    columns = np.arange(consumer.saliency.shape[1])
    for run in consumer.runs:
        columns[run] = run[order]
    return columns
