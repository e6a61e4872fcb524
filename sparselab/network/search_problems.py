"""What an order of an axis is worth: its search problems over all the weights that it enters as input channels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sparselab.core.layers import LayerWeight
from sparselab.network.analysis import Analysis, Member
from sparselab.network.axes import Indices, Leaf, leaves_of
from sparselab.network.free_axes import Axis, Occurrence, coordinates
from sparselab.permutation import SearchProblem, SearchResult, Term
from sparselab.permutation.problem import Matrix, fills_groups

Rows = Callable[[Indices | slice], Tensor]
"""Some rows of a matrix: those asked for."""

Scores = Callable[[LayerWeight], Rows]
"""The matrix of a weight's scores."""

MAX_SCORES = 2**24  # of one axis that are searched at once: some 9 bytes each while a search runs
_BLOCK = 2**22  # scores of one weight that are counted at once


@dataclass(frozen=True, eq=False)
class Consumer:
    """A weight that the pattern will prune, and the dimensions of its tensor."""

    layer: LayerWeight
    member: Member

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.layer.name

    def reads(self, axis: Axis) -> bool:
        """Whether the axis enters the weight by its input channels."""
        return set(axis.leaves) <= set(self.input_leaves())

    def input_leaves(self) -> list[Leaf]:
        """What the weight's input channels are made of."""
        return list(leaves_of(self.member.dims[self.layer.channel_dim]))


def consumers_of(analysis: Analysis, layers: Sequence[LayerWeight]) -> list[Consumer]:
    """The layers whose weight is a member of the analysis (a parametrised weight is not)."""
    by_name = {name: member for member in analysis.members for name in member.names}
    return [Consumer(layer, by_name[layer.name]) for layer in layers if layer.name in by_name]


@dataclass(frozen=True, eq=False)
class Place:
    """Where an order belongs: to one ``context`` of an axis, whose index ``units[k]`` is unit ``k`` of the problem.

    ``whole``, where given, yields problems of the same units that add up to what an order is worth; what was searched is a
    sample of them.
    """

    context: int
    units: Indices
    whole: Callable[[], Iterator[SearchProblem]] | None = None

    def order(self, found: Indices) -> Indices:
        """The axis's order that an order of the problem's units is."""
        order = np.empty_like(self.units)
        order[self.units] = self.units[found]
        return order

    def counted(self, result: SearchResult) -> SearchResult:
        """The result with its values counted on the whole, and the order that there was if that one is worth no less."""
        if self.whole is None:
            return result
        baseline = retained = ideal = 0.0
        for part in self.whole():
            baseline += part.retained(None, result.pattern)
            retained += part.retained(result.order, result.pattern)
            ideal += part.ideal(result.pattern)
        order, retained = (result.order, retained) if retained > baseline else (np.arange(len(self.units)), baseline)
        return replace(result, order=order, baseline=baseline, retained=retained, ideal=max(ideal, retained))


@dataclass(frozen=True, eq=False)
class Objective:
    """One context's problem, ``None`` where no units fill groups, and the ``place`` of the order to be found.

    ``consumers`` are the names of the weights whose scores the problem holds.
    """

    place: Place
    problem: SearchProblem | None
    consumers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Entry:
    """How an axis enters a consumer: for some contexts (``in_columns``, over the outer leaves that the columns know) the
    column of each unit, once for every copy of the axis: ``(contexts known, size, copies)``; and every row's context over
    the outer leaves that the rows know."""

    consumer: Consumer
    columns: Indices
    column_leaves: tuple[Leaf, ...]
    row_context: Indices
    row_leaves: tuple[Leaf, ...]


def objectives(
    axis: Axis, consumers: Sequence[Consumer], scores: Scores, m: int, *, seed: int = 0, max_scores: int = MAX_SCORES
) -> Iterator[Objective]:
    """A search problem for each context of ``axis`` over all ``consumers`` that it enters; none where there are none.

    A problem holds only the columns of the groups of ``m`` that the axis touches, so the retained saliency of different
    axes adds up. Scores are computed a consumer at a time and dropped with the iterator. Where there are more than
    ``max_scores``, a random sample of every consumer's rows is searched: a residual stream has so many rows that a share
    of them tells what all would, and all of them would take the memory of the model once more.
    """
    entries = [entry for consumer in consumers if consumer.reads(axis) and (entry := _entry(axis, consumer))]
    if not entries:
        return
    largest = max(entries, key=lambda entry: entry.consumer.layer.weight.numel())
    units = np.argsort(largest.columns[0, :, 0], kind="stable")  # in the order in which they stand there
    names = tuple(entry.consumer.name for entry in entries)
    share = max_scores / sum(entry.consumer.layer.weight.numel() for entry in entries)
    if share < 1:
        rng = np.random.default_rng(seed)
        for context in range(axis.contexts):
            whole = functools.partial(_whole, axis, entries, scores, context, units, m)
            sample = _sample(axis, entries, scores, context, units, m, share, rng)
            yield Objective(Place(context, units, whole), sample, names)
        return
    matrices = [_wide(scores(entry.consumer.layer)(slice(None))) for entry in entries]
    for context in range(axis.contexts):
        terms = [
            term for entry, matrix in zip(entries, matrices) for term in _terms(axis, entry, matrix, context, units, m)
        ]
        problem = SearchProblem(tuple(terms), axis.size)
        yield Objective(Place(context, units), problem if problem.has_searchable(m) else None, names)


def _wide(matrix: Tensor) -> Tensor:
    """Numpy knows no bfloat16."""
    return matrix if matrix.dtype == torch.float64 else matrix.float()


def _whole(
    axis: Axis, entries: Sequence[_Entry], scores: Scores, context: int, units: Indices, m: int
) -> Iterator[SearchProblem]:
    """Problems of some rows each that add up to that of all."""
    for entry in entries:
        layer, read = entry.consumer.layer, scores(entry.consumer.layer)
        step = max(1, _BLOCK // layer.weight.shape[layer.channel_dim])
        for start in range(0, len(entry.row_context), step):
            rows = slice(start, start + step)
            part = replace(entry, row_context=entry.row_context[rows])
            matrix = _wide(read(rows))
            yield SearchProblem(tuple(_terms(axis, part, matrix, context, units, m)), axis.size)


def _sample(
    axis: Axis,
    entries: Sequence[_Entry],
    scores: Scores,
    context: int,
    units: Indices,
    m: int,
    share: float,
    rng: np.random.Generator,
) -> SearchProblem | None:
    """A random ``share`` of every weight's rows, those columns that the units fill groups in, in one matrix."""
    parts: list[Matrix] = []
    for entry in entries:
        rows = np.sort(rng.choice(len(entry.row_context), max(1, int(share * len(entry.row_context))), replace=False))
        part = replace(entry, row_context=entry.row_context[rows])
        matrix = _wide(scores(entry.consumer.layer)(rows))
        for term in _terms(axis, part, matrix, context, units, m):
            columns = np.asarray(term.columns)
            if fills_groups(columns, m):
                parts += [torch.as_tensor(term.saliency)[:, columns[0] : columns[-1] + 1].cpu().numpy()]
    return SearchProblem.from_matrix(np.concatenate(parts)) if parts else None


def touched_columns(axis: Axis, consumer: Consumer, m: int) -> Indices:
    """The columns of all groups of ``m`` in which ``axis`` enters ``consumer``, rising; none where it cannot be searched."""
    entry = _entry(axis, consumer)
    groups = np.unique(entry.columns // m) if entry else np.empty(0, np.int64)
    touched: Indices = (groups[:, None] * m + np.arange(m)).ravel()
    return touched


def _terms(axis: Axis, entry: _Entry, matrix: Tensor, context: int, units: Indices, m: int) -> Iterator[Term]:
    index = dict(zip(axis.outer, np.unravel_index(context, [leaf.size for leaf in axis.outer]), strict=True))
    columns = entry.columns[_ravel([(leaf, index[leaf]) for leaf in entry.column_leaves])]
    touched = (np.unique(columns // m)[:, None] * m + np.arange(m)).ravel()
    rows = np.flatnonzero(entry.row_context == _ravel([(leaf, index[leaf]) for leaf in entry.row_leaves]))
    part = matrix if len(rows) == matrix.shape[0] else matrix[rows]
    if len(touched) < matrix.shape[1]:
        start, stop = int(touched[0]), int(touched[-1]) + 1
        part = part[:, start:stop] if stop - start == len(touched) else part[:, touched]
        columns = np.searchsorted(touched, columns)
    for copy in range(columns.shape[1]):
        yield Term(part, columns[units, copy])


def _ravel(indices: Sequence[tuple[Leaf, np.intp | int]]) -> int:
    flat = 0
    for leaf, index in indices:
        flat = flat * leaf.size + int(index)
    return flat


def _entry(axis: Axis, consumer: Consumer) -> _Entry | None:
    """How ``axis`` enters ``consumer``; ``None`` when a column has two coordinates in it (a flattened product of the
    axis with itself), which no search can use."""
    dims, channel_dim = consumer.member.dims, consumer.layer.channel_dim
    columns = coordinates((dims[channel_dim],))
    unit = _flat(columns, axis.leaves)
    if unit is None:
        return None
    output_dim = 1 if channel_dim == 0 else 0
    positions = [dims[dim] for dim in range(len(dims)) if dim not in (channel_dim, output_dim)]
    rows = coordinates((*positions, dims[output_dim]))
    known = {occurrence.leaf for occurrence in columns}
    column_leaves = tuple(leaf for leaf in axis.outer if leaf in known)
    row_leaves = tuple(leaf for leaf in axis.outer if leaf not in known)
    column_context, row_context = _flat(columns, column_leaves), _flat(rows, row_leaves)
    if column_context is None or row_context is None:
        return None
    there = np.flatnonzero(unit >= 0)
    contexts = math.prod(leaf.size for leaf in column_leaves)
    if not column_leaves:
        column_context = np.zeros(len(unit), np.int64)
    if not row_leaves:
        total = math.prod(consumer.member.shape) // consumer.member.shape[channel_dim]
        row_context = np.zeros(total, np.int64)
    by_unit = there[np.lexsort((there, unit[there], column_context[there]))]
    return _Entry(consumer, by_unit.reshape(contexts, axis.size, -1), column_leaves, row_context, row_leaves)


def _flat(occurrences: Sequence[Occurrence], leaves: Sequence[Leaf]) -> Indices | None:
    """The row-major index over ``leaves`` at every position, -1 where one is absent; ``None`` where one is met twice."""
    flat: Indices | None = None
    for leaf in leaves:
        found = np.stack([occurrence.index for occurrence in occurrences if occurrence.leaf is leaf])
        if ((found >= 0).sum(0) > 1).any():
            return None
        index = found.max(0)
        flat = index if flat is None else np.where((flat >= 0) & (index >= 0), flat * leaf.size + index, -1)
    return np.zeros(0, np.int64) if flat is None else flat
