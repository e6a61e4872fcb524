"""What an order of an axis is worth: its search problems over all the weights that it enters as input channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sparselab.eligibility import LayerWeight
from sparselab.layout import to_matrix
from sparselab.network.analysis import Analysis, Member
from sparselab.network.axes import Indices, Leaf, leaves_of
from sparselab.network.freedom import Axis, Occurrence, coordinates
from sparselab.permutation import SearchProblem, Term

Scores = Callable[[LayerWeight], Tensor]


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
class Objective:
    """One context's problem: unit ``k`` of ``problem`` is index ``units[k]`` of the axis."""

    context: int
    problem: SearchProblem
    units: Indices

    def order(self, found: Indices) -> Indices:
        """The axis's order that an order of the problem's units is."""
        order = np.empty_like(self.units)
        order[self.units] = self.units[found]
        return order


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


def objectives(axis: Axis, consumers: Sequence[Consumer], scores: Scores, m: int) -> Iterator[Objective]:
    """A search problem for each context of ``axis`` over all ``consumers`` that it enters; none where there are none.

    A problem holds only the columns of the groups of ``m`` that the axis touches, so the retained saliency of different
    axes adds up. Scores are computed once a consumer and dropped with the iterator.
    """
    entries = [entry for consumer in consumers if consumer.reads(axis) and (entry := _entry(axis, consumer))]
    if not entries:
        return
    matrices = [to_matrix(scores(entry.consumer.layer), entry.consumer.layer.channel_dim) for entry in entries]
    largest = max(range(len(entries)), key=lambda k: matrices[k].numel())
    units = np.argsort(entries[largest].columns[0, :, 0], kind="stable")  # in the order in which they stand there
    for context in range(axis.contexts):
        terms: list[Term] = []
        for entry, matrix in zip(entries, matrices, strict=True):
            terms.extend(_terms(axis, entry, matrix, context, units, m))
        yield Objective(context, SearchProblem(tuple(terms), axis.size), units)


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
