"""The search problems of an axis: what its orders are worth in all the weights that read it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sparselab.core.layers import LayerWeight
from sparselab.core.weight_matrix import matrix_dims
from sparselab.network.analysis import Analysis, Member
from sparselab.network.axes import Indices, Leaf, leaves_of
from sparselab.network.free_axes import Axis, Occurrence, coordinates
from sparselab.permutation import SearchProblem, SearchResult, Term
from sparselab.permutation.problem import fills_groups
from sparselab.permutation.row_moments import RowMoments

Rows = Callable[[Indices | slice], Tensor]
"""Some rows of a matrix: those asked for."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The matrix of a weight's scores, by its ``rows``; with ``moments``, of the weight itself.

    ``weight`` is what it counts.
    """

    rows: Rows
    moments: RowMoments | None = None
    weight: float = 1.0


Scores = Callable[[LayerWeight], Scored]
"""How a weight is scored."""

MAX_SCORES = 2**24  # of one axis, searched at once: some 9 bytes each while a search runs
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
    """Where an order belongs: to one ``context`` of an axis of ``size`` indices.

    Index ``units[k]`` of the axis is unit ``k`` of the problem; indices that are no unit stay. Where
    only a sample was searched, ``whole`` yields problems of the same units that add up to what an
    order is really worth.
    """

    context: int
    units: Indices
    size: int
    whole: Callable[[], Iterator[SearchProblem]] | None = None

    def order(self, found: Indices) -> Indices:
        """The order of the axis's indices that an order of the problem's units means."""
        order = np.arange(self.size)
        order[self.units] = self.units[found]
        return order

    def counted(self, result: SearchResult) -> SearchResult:
        """The result with its values counted on all scores.

        The identity takes the place of an order that turns out to be worth no more.
        """
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
class PlacedProblem:
    """One context's problem and the ``place`` of the order that is to be found.

    ``problem`` is ``None`` where no units fill groups. ``consumers`` are the names of the weights
    whose scores it holds.
    """

    place: Place
    problem: SearchProblem | None
    consumers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Entry:
    """How an axis enters a consumer.

    ``columns`` ``(contexts known, size, copies)`` has, for every context over the outer leaves that
    the columns know (``column_leaves``), the column of each unit, once for every copy of the axis.
    ``row_context`` has every row's context over the outer leaves that the rows know
    (``row_leaves``).
    """

    consumer: Consumer
    columns: Indices
    column_leaves: tuple[Leaf, ...]
    row_context: Indices
    row_leaves: tuple[Leaf, ...]


@dataclass(frozen=True, eq=False)
class _Reading:
    """How the scores of the weights that read ``axis`` (its ``entries``) become search problems.

    ``m`` is the size of a group.
    """

    axis: Axis
    entries: Sequence[_Entry]
    scores: Scores
    m: int

    def units(self, context: int) -> Indices:
        """The indices of the axis in the order in which they stand in its largest consumer.

        Index ``units[k]`` is unit ``k`` of the context's problems. Where they fill groups in no
        consumer (10 channels, for groups of 4), only those are units that stand in whole groups.
        """
        largest_first = sorted(self.entries, key=lambda entry: -entry.consumer.layer.weight.numel())
        runs = [run for entry in largest_first for run in self._columns(entry, context).T]
        everything: Indices = np.argsort(runs[0], kind="stable")
        if any(fills_groups(run[everything], self.m) for run in runs):
            return everything
        return next(filter(len, (self._in_whole_groups(run) for run in runs)), everything[:0])

    def _in_whole_groups(self, run: Indices) -> Indices:
        """The indices whose column is in a group of which every column is one of ``run``, rising."""
        groups, columns = np.unique(run // self.m, return_counts=True)
        rising = np.argsort(run, kind="stable")
        return rising[np.isin(run[rising] // self.m, groups[columns == self.m])]

    def _columns(self, entry: _Entry, context: int) -> Indices:
        """The columns ``(size, copies)`` of a context's units in one consumer."""
        outer = self._outer(context)
        found: Indices = entry.columns[_ravel([(leaf, outer[leaf]) for leaf in entry.column_leaves])]
        return found

    def _outer(self, context: int) -> dict[Leaf, np.intp]:
        outer = self.axis.outer
        return dict(zip(outer, np.unravel_index(context, [leaf.size for leaf in outer]), strict=True))

    def whole(self, context: int, matrices: Sequence[tuple[Scored, Tensor]]) -> SearchProblem | None:
        """The problem of one context, of all scores; ``None`` where no units fill groups."""
        terms = [
            term
            for entry, (scored, matrix) in zip(self.entries, matrices, strict=True)
            for term in self._terms(entry, scored, matrix, context)
        ]
        problem = SearchProblem(tuple(terms), len(self.units(context)))
        return problem if problem.has_searchable(self.m) else None

    def in_parts(self, context: int) -> Iterator[SearchProblem]:
        """Problems of some rows each that add up to that of all."""
        for entry in self.entries:
            layer, scored = entry.consumer.layer, self.scores(entry.consumer.layer)
            step = max(1, _BLOCK // layer.weight.shape[layer.channel_dim])
            for start in range(0, len(entry.row_context), step):
                rows = slice(start, start + step)
                part = replace(entry, row_context=entry.row_context[rows])
                terms = self._terms(part, _some(scored, rows), _wide(scored.rows(rows)), context)
                yield SearchProblem(tuple(terms), len(self.units(context)))

    def sampled(self, context: int, share: float, rng: np.random.Generator) -> SearchProblem | None:
        """A random ``share`` of every weight's rows, and of those the columns in which the units fill groups.

        Saliency is one matrix then. ``None`` where there are no such columns.
        """
        parts: list[Term] = []
        for entry in self.entries:
            count = len(entry.row_context)
            rows = np.sort(rng.choice(count, max(1, int(share * count)), replace=False))
            part = replace(entry, row_context=entry.row_context[rows])
            scored = self.scores(entry.consumer.layer)
            for term in self._terms(part, _some(scored, rows), _wide(scored.rows(rows)), context):
                columns = np.asarray(term.columns)
                if fills_groups(columns, self.m):
                    span = slice(columns[0], columns[-1] + 1)
                    matrix = torch.as_tensor(term.saliency)[:, span].cpu().numpy()
                    moments = term.moments and term.moments.columns(span)
                    parts.append(Term(matrix, columns - columns[0], term.weight, moments))
        if not parts:
            return None
        if parts[0].moments is not None:
            return SearchProblem(tuple(parts), len(self.units(context)))
        return SearchProblem.from_matrix(np.concatenate([np.asarray(part.saliency) for part in parts]))

    def _terms(self, entry: _Entry, scored: Scored, matrix: Tensor, context: int) -> Iterator[Term]:
        """What one weight adds to the problem of a context: a term for every copy of the axis."""
        outer = self._outer(context)
        columns = self._columns(entry, context)[self.units(context)]
        touched = _groups_of(columns, self.m)
        row_context = _ravel([(leaf, outer[leaf]) for leaf in entry.row_leaves])
        rows = np.flatnonzero(entry.row_context == row_context)
        part, moments = matrix, scored.moments
        if len(rows) < matrix.shape[0]:
            part, moments = matrix[rows], moments and moments.rows(rows)
        if len(touched) < matrix.shape[1]:
            start, stop = int(touched[0]), int(touched[-1]) + 1
            there = slice(start, stop) if stop - start == len(touched) else touched
            part, moments = part[:, there], moments and moments.columns(there)
            columns = np.searchsorted(touched, columns)
        for copy in range(columns.shape[1]):
            yield Term(part, columns[:, copy], scored.weight, moments)


def placed_problems(
    axis: Axis,
    consumers: Sequence[Consumer],
    scores: Scores,
    m: int,
    *,
    seed: int = 0,
    max_scores: int = MAX_SCORES,
) -> Iterator[PlacedProblem]:
    """A search problem for each context of ``axis`` over all ``consumers`` that it enters.

    None where it enters none. A problem holds only the columns of the groups of ``m`` that the axis
    touches, so the retained saliency of different axes adds up. Scores are computed for one
    consumer at a time and dropped with the iterator. Where there are more than ``max_scores``, a
    random sample of every consumer's rows is searched, drawn with ``seed``: a residual stream has
    so many rows that a share of them tells what all would, and all of them would take the memory of
    the model once more.
    """
    reading = [consumer for consumer in consumers if consumer.reads(axis)]
    entries = [entry for consumer in reading if (entry := _entry(axis, consumer))]
    if not entries:
        return
    read = _Reading(axis, entries, scores, m)
    names = tuple(entry.consumer.name for entry in entries)
    share = max_scores / sum(entry.consumer.layer.weight.numel() for entry in entries)
    if share < 1:
        rng = np.random.default_rng(seed)
        for context in range(axis.contexts):
            place = Place(context, read.units(context), axis.size, functools.partial(read.in_parts, context))
            if not len(place.units):
                yield PlacedProblem(place, None, names)
                continue
            yield PlacedProblem(place, read.sampled(context, share, rng), names)
        return
    scored = [scores(entry.consumer.layer) for entry in entries]
    matrices = [(each, _wide(each.rows(slice(None)))) for each in scored]
    for context in range(axis.contexts):
        place = Place(context, read.units(context), axis.size)
        yield PlacedProblem(place, read.whole(context, matrices) if len(place.units) else None, names)


def _some(scored: Scored, rows: Indices | slice) -> Scored:
    """The same of some rows."""
    return replace(scored, moments=scored.moments and scored.moments.rows(rows))


def _wide(matrix: Tensor) -> Tensor:
    """In float32 or float64: numpy knows no bfloat16."""
    return matrix if matrix.dtype == torch.float64 else matrix.float()


def touched_columns(axis: Axis, consumer: Consumer, m: int) -> Indices:
    """The columns of all groups of ``m`` in which ``axis`` enters ``consumer``, rising.

    None where the axis cannot be searched there.
    """
    entry = _entry(axis, consumer)
    return _groups_of(entry.columns, m) if entry else np.empty(0, np.int64)


def fills_groups_of(axis: Axis, consumer: Consumer, m: int) -> bool:
    """Whether the units of ``axis`` fill groups of ``m`` input channels of ``consumer`` somewhere."""
    entry = _entry(axis, consumer) if consumer.reads(axis) else None
    if entry is None:
        return False
    runs = np.sort(entry.columns, axis=1).transpose(0, 2, 1).reshape(-1, axis.size)
    return any(fills_groups(run, m) for run in runs)


def _groups_of(columns: Indices, m: int) -> Indices:
    """All columns of the groups of ``m`` that ``columns`` stand in, rising."""
    touched: Indices = (np.unique(columns // m)[:, None] * m + np.arange(m)).ravel()
    return touched


def _ravel(indices: Sequence[tuple[Leaf, np.intp | int]]) -> int:
    flat = 0
    for leaf, index in indices:
        flat = flat * leaf.size + int(index)
    return flat


def _entry(axis: Axis, consumer: Consumer) -> _Entry | None:
    """How ``axis`` enters ``consumer``.

    ``None`` when a column has two coordinates in it (a flattened product of the axis with itself):
    no search can use that.
    """
    dims, channel_dim = consumer.member.dims, consumer.layer.channel_dim
    columns = coordinates((dims[channel_dim],))
    unit = _flat(columns, axis.leaves)
    if unit is None:
        return None
    positions, output_dim, _ = matrix_dims(len(dims), channel_dim)
    rows = coordinates((*(dims[dim] for dim in positions), dims[output_dim]))
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
    """The row-major index over ``leaves`` at every position, -1 where one is absent.

    ``None`` where a position has two coordinates in the same leaf.
    """
    flat: Indices | None = None
    for leaf in leaves:
        found = np.stack([occurrence.index for occurrence in occurrences if occurrence.leaf is leaf])
        if ((found >= 0).sum(0) > 1).any():
            return None
        index = found.max(0)
        flat = index if flat is None else np.where((flat >= 0) & (index >= 0), flat * leaf.size + index, -1)
    return np.zeros(0, np.int64) if flat is None else flat
