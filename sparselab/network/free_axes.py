"""Which leaves may move, which move as one, and which in an order for each index of another.

The leaves that are whole and not pinned once the graph has been walked are free to move. Take the
heads of attention, ``(head, width)``: the width may take *a different order in every head* if, in
every value in which the width occurs, the head stands beside it. So for each leaf we collect the
leaves that stand beside all its occurrences; its order may depend on those. Values inside operators
count (``Notes``): a softmax over heads adds up numbers of different heads, so in its sums the width
stands without a head, and has to take the same order in all of them.

Leaves that depend on each other move as one set of indices: an ``Axis`` of several leaves (channel
shuffle).

Orders are index arrays: what is now at index ``u`` was at ``order[u]`` before. An axis has one
order for every *context*: every combination of the (old) indices of the leaves that it depends on.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from sparselab.network.analysis import Analysis
from sparselab.network.axes import Concat, Dim, Indices, Leaf, Relabel, factors_of, leaves_of, parts_of, size_of
from sparselab.network.dataflow import Dims, Grouping

MAX_CONTEXTS = 4096


@dataclass(frozen=True, eq=False)
class Axis:
    """Leaves that move as one set of ``size`` indices (row-major over ``leaves``).

    They move separately in every context: every combination of indices of the ``outer`` leaves.
    """

    leaves: tuple[Leaf, ...]
    outer: tuple[Leaf, ...]

    @property
    def size(self) -> int:
        """How many indices move."""
        return math.prod(leaf.size for leaf in self.leaves)

    @property
    def contexts(self) -> int:
        """How many orders the axis has."""
        return math.prod(leaf.size for leaf in self.outer)

    def identity(self) -> Indices:
        """The orders ``(contexts, size)`` that move nothing."""
        return np.tile(np.arange(self.size), (self.contexts, 1))


Orders = Mapping[Axis, Indices]
"""The orders ``(contexts, size)`` of some axes; the others stay."""


# -------------------------------------------------------------------------------------------------------- dependence


def free_axes(analysis: Analysis, freed: Set[Leaf] = frozenset()) -> list[Axis]:
    """Every axis that may be put in any order, those that others depend on first.

    The order of the list follows the model's own order of parameters. Leaves that are ``freed``
    count as free though they are pinned.
    """
    beside = _always_beside(analysis.values, _implied(analysis.groupings))
    for leaf, others in _always_beside(member.dims for member in analysis.members).items():
        beside[leaf] &= others  # what moves a tensor needs every index that an order depends on, in that tensor
    ranked = {leaf: rank for rank, leaf in enumerate(dict.fromkeys(_member_leaves(analysis)))}
    free = [leaf for leaf in ranked if leaf.reason is None or leaf in freed]
    found: list[tuple[tuple[Leaf, ...], tuple[Leaf, ...]]] = []
    done: set[Leaf] = set()
    for leaf in free:
        if leaf in done:
            continue
        mutual = [other for other in free if other is leaf or (other in beside[leaf] and leaf in beside[other])]
        done.update(mutual)
        outer = set.intersection(*(beside[other] for other in mutual)) - set(mutual)
        found.append((tuple(mutual), _affordable(sorted(outer, key=ranked.__getitem__))))
    return _outer_first(found)


def _member_leaves(analysis: Analysis) -> Iterable[Leaf]:
    members = (member for member in analysis.members if 0 not in member.shape)  # no numbers, nothing to move
    return (leaf for member in members for dim in member.dims for leaf in leaves_of(dim))


def _affordable(outer: Sequence[Leaf]) -> tuple[Leaf, ...]:
    """As many outer leaves as keep the number of orders within a limit; fewer are always right."""
    kept: list[Leaf] = []
    for leaf in outer:
        if math.prod(other.size for other in (*kept, leaf)) <= MAX_CONTEXTS:
            kept.append(leaf)
    return tuple(kept)


def _outer_first(found: Sequence[tuple[tuple[Leaf, ...], tuple[Leaf, ...]]]) -> list[Axis]:
    owner = {leaf: number for number, (leaves, _) in enumerate(found) for leaf in leaves}
    placed: dict[int, Axis] = {}
    begun: set[int] = set()

    def place(number: int) -> None:
        if number in begun:
            return
        begun.add(number)
        leaves, outer = found[number]
        for leaf in outer:
            if leaf in owner:
                place(owner[leaf])
        # An outer leaf that is not placed yet depends on this one in a circle: drop the dependence.
        placed[number] = Axis(leaves, tuple(o for o in outer if o not in owner or owner[o] in placed))

    for number in range(len(found)):
        place(number)
    return list(placed.values())


@dataclass(frozen=True)
class _Implied:
    """An index in each of ``known`` tells the one in ``leaf``: the tokens of a group, their expert."""

    known: frozenset[Leaf]
    leaf: Leaf

    def holds(self, counts: Counter[Leaf]) -> bool:
        """Whether it is clear in a value, which has every leaf ``counts`` times, what is told."""
        return counts[self.leaf] == 0 and all(counts[leaf] == 1 for leaf in self.known)


def _implied(groupings: Sequence[Grouping]) -> list[_Implied]:
    """What groupings imply; nothing where the same tokens are grouped in two ways."""
    ends: dict[Leaf, set[int]] = {}
    for grouping in groupings:
        for leaf in leaves_of(grouping.tokens):
            ends.setdefault(leaf, set()).add(id(grouping.ends))
    found = []
    for grouping in groupings:
        known, experts = frozenset(leaves_of(grouping.tokens)), list(leaves_of(grouping.experts))
        if known and len(experts) == 1 and all(len(ends[leaf]) == 1 for leaf in known):
            found.append(_Implied(known, experts[0]))
    return list(dict.fromkeys(found))


def _always_beside(values: Iterable[Dims], implied: Sequence[_Implied] = ()) -> dict[Leaf, set[Leaf]]:
    """For every leaf, the leaves that stand, unmistakably, beside each of its occurrences."""
    beside: dict[Leaf, set[Leaf]] = {}
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for dims in values:
        dims = tuple(factors_of(dim) for dim in dims)
        signature = tuple(tuple(map(id, dim)) for dim in dims)
        if signature in seen:
            continue
        seen.add(signature)
        chains = [_chains(dim) for dim in dims]
        counts = Counter(leaf for dim in dims for leaf in leaves_of(dim))
        for position, own in enumerate(chains):
            elsewhere = {leaf for other, c in enumerate(chains) if other != position for leaf in c.certain}
            for leaf, chain in own.occurrences:
                near = elsewhere | set(chain)
                certain = {other for other in near if counts[other] == 1 or _paired(other, leaf, chains)}
                certain |= {each.leaf for each in implied if each.known <= near and each.holds(counts)}
                beside[leaf] = (beside[leaf] & certain) if leaf in beside else certain
    for leaf, others in beside.items():
        others.discard(leaf)
    return beside


@dataclass(frozen=True)
class _Chains:
    """The leaves of one dimension.

    ``certain`` are those in which every index has a coordinate. ``occurrences`` are all, each with
    the leaves in which an index there has a coordinate too, outermost first.
    """

    certain: tuple[Leaf, ...]
    occurrences: tuple[tuple[Leaf, tuple[Leaf, ...]], ...]


def _chains(dim: Dim, around: tuple[Leaf, ...] = ()) -> _Chains:
    whole = tuple(leaf for leaf in factors_of(dim) if leaf.link is None)
    chain = (*around, *whole)
    occurrences = [(leaf, chain) for leaf in whole]
    for leaf in factors_of(dim):
        if isinstance(leaf.link, Concat):
            for part in parts_of(leaf):
                occurrences.extend(_chains(part, chain).occurrences)
        elif isinstance(leaf.link, Relabel):
            inner = _chains(leaf.link.inner, chain)
            whole += inner.certain
            occurrences.extend(inner.occurrences)
    return _Chains(whole, tuple(occurrences))


def _paired(outer: Leaf, leaf: Leaf, chains: Sequence[_Chains]) -> bool:
    """Whether every ``leaf`` in the value has exactly one ``outer`` before it in its own dimension.

    Then it is clear which one it belongs to, although ``outer`` occurs more than once in the value.
    """
    own = [chain for dim in chains for found, chain in dim.occurrences if found is leaf]
    return all(chain.count(outer) == chain.count(leaf) == 1 and chain.index(outer) < chain.index(leaf) for chain in own)


# ------------------------------------------------------------------------------------------------------- coordinates

Path = tuple[int, ...]
"""Where a leaf stands: the dimension, then the factor and the part for every concat around it."""

Visit = Callable[[Path, Leaf, Indices, Indices], Indices]


@dataclass(frozen=True)
class Occurrence:
    """A leaf at ``path``; ``index`` is the coordinate of every position in it, -1 where none."""

    leaf: Leaf
    path: Path
    index: Indices

    def sees(self, other: Occurrence) -> bool:
        """Whether the other one stands in the same product as this one, or in one around it."""
        return self.path[: len(other.path)] == other.path


def coordinates(dims: Dims) -> list[Occurrence]:
    """Every occurrence of a whole leaf in the flattened ``dims``."""
    found: list[Occurrence] = []
    size = math.prod(map(size_of, dims))

    def visit(path: Path, leaf: Leaf, index: Indices, at: Indices) -> Indices:
        full = np.full(size, -1, np.int64)
        full[at] = index
        found.append(Occurrence(leaf, path, full))
        return index

    _walk_span(dims, visit)
    return found


def order_of(dims: Dims, orders: Orders, axis_of: Mapping[Leaf, Axis]) -> Indices:
    """The order of the flattened ``dims`` that follows from ``orders``: ``new = old[order]``."""
    occurrences = coordinates(dims)
    old: dict[int, Indices] = {number: occurrence.index for number, occurrence in enumerate(occurrences)}
    moving = [axis for axis in orders if any(axis_of.get(o.leaf) is axis for o in occurrences)]  # outer first, as given

    def coordinate(leaf: Leaf, beside: Occurrence, table: Mapping[int, Indices]) -> Indices:
        numbers = [n for n, o in enumerate(occurrences) if o.leaf is leaf]
        near = [n for n in numbers if beside.sees(occurrences[n])]
        merged: Indices = np.stack([table[n] for n in near or numbers]).max(0)
        return merged

    new = dict(old)
    for axis in moving:
        for number, occurrence in enumerate(occurrences):
            if axis_of.get(occurrence.leaf) is not axis:
                continue
            present = np.flatnonzero(occurrence.index >= 0)
            context = np.zeros(len(present), np.int64)
            for leaf in axis.outer:
                context = context * leaf.size + coordinate(leaf, occurrence, old)[present]
            unit = np.zeros(len(present), np.int64)
            for leaf in axis.leaves:
                index = occurrence.index if leaf is occurrence.leaf else coordinate(leaf, occurrence, new)
                unit = unit * leaf.size + index[present]
            came_from = orders[axis][context, unit]
            stride = math.prod(leaf.size for leaf in axis.leaves[axis.leaves.index(occurrence.leaf) + 1 :])
            moved = occurrence.index.copy()
            moved[present] = came_from // stride % occurrence.leaf.size
            old[number] = moved
    numbers = iter(range(len(occurrences)))
    return _walk_span(dims, lambda path, leaf, index, at: old[next(numbers)][at])


def _walk_span(dims: Dims, visit: Visit) -> Indices:
    """Visit every leaf of the flattened ``dims`` with its index at every position.

    Returns the positions that the answers stand for.
    """
    total = math.prod(map(size_of, dims))
    everywhere = np.arange(total)
    result = np.zeros(total, np.int64)
    stride = total
    for number, dim in enumerate(dims):
        stride //= size_of(dim)
        result += _walk_dim((number,), dim, everywhere // stride % size_of(dim), everywhere, visit) * stride
    return result


def _walk_dim(path: Path, dim: Dim, position: Indices, at: Indices, visit: Visit) -> Indices:
    result = np.zeros_like(position)
    stride = size_of(dim)
    for number, leaf in enumerate(factors_of(dim)):
        stride //= leaf.size
        index = position // stride % leaf.size
        if leaf.link is None:
            result += visit(path, leaf, index, at) * stride
        else:
            result += _walk_link((*path, number), leaf, index, at, visit) * stride
    return result


def _walk_link(path: Path, leaf: Leaf, index: Indices, at: Indices, visit: Visit) -> Indices:
    if isinstance(leaf.link, Relabel):
        back = np.argsort(leaf.link.units)
        return back[_walk_dim(path, leaf.link.inner, leaf.link.units[index], at, visit)]
    result, offset = np.empty_like(index), 0
    for number, part in enumerate(parts_of(leaf)):
        inside = (index >= offset) & (index < offset + size_of(part))
        local = index[inside] - offset
        result[inside] = offset + _walk_dim((*path, number), part, local, at[inside], visit)
        offset += size_of(part)
    return result


def spans(dims: Dims, axis_of: Mapping[Leaf, Axis]) -> list[range]:
    """The dimensions of a tensor, with those that have to move together in one range.

    Two have to if an axis moves a leaf of one of them, and another leaf of that axis, or one that
    the axis depends on, stands in the other.
    """
    inside = [set(leaves_of(dim)) for dim in dims]
    cuts = set(range(len(dims) + 1))
    for position, leaves in enumerate(inside):
        for axis in {axis_of[leaf] for leaf in leaves if leaf in axis_of}:
            for needed in (*axis.leaves, *axis.outer):
                if needed in leaves:
                    continue
                for other, theirs in enumerate(inside):
                    if needed in theirs:
                        cuts -= set(range(min(position, other) + 1, max(position, other) + 1))
    edges = sorted(cuts)
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]
