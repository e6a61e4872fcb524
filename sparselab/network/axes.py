"""Dimensions of tensors as products and concatenations of leaves, and how two become one.

A network's symmetries are found by asking, of every dimension of every tensor, what it is made of:

- a **leaf** is a set of indices that nothing has told apart yet: the 64 output channels of a
  convolution;
- a **product** of leaves is what ``view`` makes, in row-major order: ``(heads, width)`` for a
  projection of attention, ``(channels, pixels)`` for a flattened picture; a dimension of size 1 is
  the empty product;
- a **concat** of products is what ``cat`` makes, and what ``split`` finds;
- a **relabelling** is what an index by a constant makes: the same indices in other places.

An operator says which dimensions are the same one (``unify``). A leaf that turns out to be a
product, a concat or another leaf is *refined*: it gets a link to what it is, so everything that was
built on it follows. What cannot be matched is *pinned*, with the reason: pinned leaves keep their
order.

Whatever is still a leaf at the end may be put in any order, as long as everything built on it
follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Leaf:
    """``size`` indices that may take any order, unless refined (``link``) or pinned (``reason``).

    A refined leaf is what its link says. The indices of ``copies`` are all alike.
    """

    __slots__ = ("copies", "link", "reason", "size")

    def __init__(self, size: int, *, link: Link | None = None, reason: str | None = None, copies: bool = False) -> None:
        self.size = size
        self.link = link
        self.reason = reason
        self.copies = copies

    def __repr__(self) -> str:
        if isinstance(self.link, Product):
            return show(self.link.factors)
        if isinstance(self.link, Concat):
            return "[" + " | ".join(show(part) for part in parts_of(self)) + "]"
        if isinstance(self.link, Relabel):
            return f"relabelled{show(self.link.inner)}"
        return f"{self.size}{'!' if self.reason else ''}"


Dim = tuple[Leaf, ...]
"""One dimension of a tensor: a row-major product of leaves. ``()`` has size 1."""


@dataclass(frozen=True, eq=False)
class Product:
    """A leaf that turned out to be a product, or (with one factor) another leaf."""

    factors: Dim


@dataclass(frozen=True, eq=False)
class Concat:
    """A leaf that turned out to be several dimensions one after the other."""

    parts: tuple[Dim, ...]


@dataclass(frozen=True, eq=False)
class Relabel:
    """A leaf whose position ``p`` is position ``units[p]`` of ``inner``."""

    inner: Dim
    units: Indices


Link = Product | Concat | Relabel


# ---------------------------------------------------------------------------------------------------------- reading


def fresh(size: int, reason: str | None = None) -> Dim:
    """A new dimension of ``size`` that nothing is known about; pinned if there is a ``reason``."""
    return () if size == 1 else (Leaf(size, reason=reason),)


def copies(size: int) -> Dim:
    """A new dimension of ``size`` copies of one thing."""
    return () if size == 1 else (Leaf(size, copies=True),)


def are_copies(dim: Dim) -> bool:
    """Whether all indices of a dimension are known to be alike: it was expanded, and met nothing since."""
    return all(leaf.copies and leaf.link is None and leaf.reason is None for leaf in factors_of(dim))


def size_of(dim: Dim) -> int:
    """How many indices a dimension has."""
    return math.prod(leaf.size for leaf in dim)


def factors_of(dim: Dim) -> Dim:
    """The product that a dimension is now, with every refinement into a product followed.

    The factors are whole leaves, concats and relabellings.
    """
    if all(not isinstance(leaf.link, Product) for leaf in dim):
        return dim
    found: list[Leaf] = []
    for leaf in dim:
        if isinstance(leaf.link, Product):
            followed = factors_of(leaf.link.factors)
            leaf.link = Product(followed)  # a shortcut for the next call
            found.extend(followed)
        else:
            found.append(leaf)
    return tuple(found)


def parts_of(leaf: Leaf) -> list[Dim]:
    """The parts of a concat, those of its parts that are concats themselves opened up."""
    assert isinstance(leaf.link, Concat)
    found: list[Dim] = []
    for part in leaf.link.parts:
        factors = factors_of(part)
        if len(factors) == 1 and isinstance(factors[0].link, Concat):
            found.extend(parts_of(factors[0]))
        else:
            found.append(factors)
    return found


def leaves_of(dim: Dim) -> Iterator[Leaf]:
    """Every whole leaf in a dimension, wherever it stands, as often as it occurs."""
    for leaf in factors_of(dim):
        if isinstance(leaf.link, Concat):
            for part in parts_of(leaf):
                yield from leaves_of(part)
        elif isinstance(leaf.link, Relabel):
            yield from leaves_of(leaf.link.inner)
        else:
            yield leaf


def reasons_of(dim: Dim) -> list[str]:
    """Why the pinned leaves of a dimension are pinned, each reason once."""
    return list(dict.fromkeys(leaf.reason for leaf in leaves_of(dim) if leaf.reason))


def show(dim: Dim) -> str:
    """A dimension as text: ``(12x64)`` is a product, ``[16 | 16]`` a concat, ``9!`` is pinned."""
    factors = factors_of(dim)
    return repr(factors[0]) if len(factors) == 1 else "(" + "x".join(map(repr, factors)) + ")"


# ----------------------------------------------------------------------------------------------------------- building


def join(parts: Iterable[Dim]) -> Dim:
    """The concat of ``parts``, in their order."""
    parts = [part for part in parts if size_of(part) > 0]
    if len(parts) == 1:
        return parts[0]
    return (Leaf(sum(map(size_of, parts)), link=Concat(tuple(parts))),)


def pin(dim: Dim, reason: str) -> None:
    """Keep the order of everything in ``dim``; the first reason for a leaf is the one kept."""
    for leaf in leaves_of(dim):
        leaf.reason = leaf.reason or reason


def pinned_like(dim: Dim, reason: str) -> Dim:
    """Pin ``dim``; return a new dimension of the same size, pinned as well."""
    pin(dim, reason)
    return fresh(size_of(dim), reason)


# --------------------------------------------------------------------------------------------------------- refinement


def refine(leaf: Leaf, link: Link) -> None:
    """``leaf`` is from now on what ``link`` says; if it was pinned, so are its pieces."""
    reason, leaf.link, leaf.reason = leaf.reason, link, None
    if reason:
        pin((leaf,), reason)


def divide(leaf: Leaf, inner: int) -> bool:
    """Refine ``leaf`` into a product whose last factors have ``inner`` indices together.

    ``False`` where it cannot be such a product.
    """
    if leaf.size % inner:
        return False
    if leaf.link is None:
        refine(leaf, Product(fresh(leaf.size // inner) + fresh(inner)))
        return True
    if isinstance(leaf.link, Relabel):
        return False
    cuts = [take_tail(part, inner) for part in parts_of(leaf)]
    whole = [cut for cut in cuts if cut is not None]
    if len(whole) < len(cuts):
        return False
    tail = whole[0][1]
    for _, other in whole[1:]:
        unify(tail, other)
    leaf.link = Product(join([head for head, _ in whole]) + tail)
    return True


def take_tail(dim: Dim, size: int) -> tuple[Dim, Dim] | None:
    """``dim`` as ``(head, tail)``, a product whose tail has ``size`` indices.

    ``None`` where it cannot be such a product.
    """
    head = factors_of(dim)
    tail: Dim = ()
    while (have := size_of(tail)) != size:
        if size % have or not head:
            return None
        last, need = head[-1], size // have
        if last.size <= need:
            head, tail = head[:-1], (last, *tail)
        elif divide(last, need):
            head, tail = factors_of(head), factors_of(tail)
        else:
            return None
    return head, tail


def split(dim: Dim, at: int) -> tuple[Dim, Dim] | None:
    """``dim`` as a concat of its first ``at`` indices and the rest.

    ``None`` where that would cut through a product.
    """
    if at == 0:
        return fresh(0, "empty"), dim
    if at == size_of(dim):
        return dim, fresh(0, "empty")
    first, *rest = factors_of(dim)
    inner = size_of(tuple(rest))
    if at % inner or isinstance(first.link, Relabel):
        return None
    at //= inner
    if first.link is None:
        refine(first, Concat((fresh(at), fresh(first.size - at))))
    left: list[Dim] = []
    right = parts_of(first)
    while (missing := at - sum(map(size_of, left))) > 0:
        part = right.pop(0)
        if size_of(part) > missing:
            cut = split(part, missing)
            if cut is None:
                return None
            part, remainder = cut
            right.insert(0, remainder)
        left.append(part)
    return join(left) + tuple(rest), join(right) + tuple(rest)


def piece(dim: Dim, start: int, stop: int, reason: str) -> Dim:
    """Indices ``start`` to ``stop`` of ``dim``; pinned with ``reason`` if they cut a product."""
    ahead = split(dim, stop)
    behind = ahead and split(ahead[0], start)
    if behind is None:
        pin(dim, reason)
        return fresh(stop - start, reason)
    return behind[1]


def reslice(dims: Sequence[Dim], shape: Sequence[int], reason: str) -> tuple[Dim, ...]:
    """What ``view`` does: the product of all ``dims``, cut into dimensions as in ``shape``.

    Where a cut goes across what is there, only the dimensions on both sides of it are pinned that
    stand for the same numbers. Raises ``ValueError`` when ``shape`` stands for more or fewer numbers.
    """
    if math.prod(map(size_of, dims)) != math.prod(shape):
        raise ValueError(f"shape {tuple(shape)} has not the size of {tuple(map(size_of, dims))}")
    rest: Dim = tuple(leaf for dim in dims for leaf in dim)
    sizes, made = list(shape), list[Dim]()
    while sizes:
        if (cut := take_tail(rest, sizes[-1])) is not None:
            rest, tail = cut
            sizes.pop()
            made.append(tail)
            continue
        rest, across, count = _cut_across(rest, sizes)
        pin(across, reason)
        made += (fresh(sizes.pop(), reason) for _ in range(count))
    return tuple(reversed(made))


def _cut_across(dim: Dim, sizes: Sequence[int]) -> tuple[Dim, Dim, int]:
    """``dim`` as ``(head, tail)``, and how many of the last ``sizes`` have as many indices as the tail.

    The tail has as few factors as can be.
    """
    factors = factors_of(dim)
    behind = {math.prod(sizes[-count:]): count for count in range(len(sizes), 0, -1)}
    start = next(n for n in range(len(factors) - 1, -1, -1) if size_of(factors[n:]) in behind)
    return factors[:start], factors[start:], behind[size_of(factors[start:])]


def choose(dim: Dim, index: Indices, reason: str) -> Dim:
    """What ``x[index]`` does with a constant index; pinned where that cannot be followed."""
    if len(np.unique(index)) == len(index):
        factors = factors_of(dim)
        if len(factors) == 1 and factors[0].link is None:
            leaf = factors[0]
            others = np.setdiff1d(np.arange(leaf.size), index)
            chosen, unchosen = fresh(len(index)), fresh(len(others))
            units = np.argsort(np.concatenate([index, others]))
            refine(leaf, Relabel(join([chosen, unchosen]) if len(others) else chosen, units))
            return chosen
        runs = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
        if len(index) == size_of(dim):
            return (Leaf(len(index), link=Relabel(factors, index)),)
        if len(runs) <= len(index) // 2:
            return join([piece(dim, int(run[0]), int(run[-1]) + 1, reason) for run in runs])
    pin(dim, reason)
    return fresh(len(index), reason)


# -------------------------------------------------------------------------------------------------------- unification


def unify(a: Dim, b: Dim) -> None:
    """``a`` and ``b`` are the same dimension from now on.

    They are aligned from their last factors, and pinned where they do not align. Raises
    ``ValueError`` when their sizes differ, which is a mistake of a rule.
    """
    if size_of(a) != size_of(b):
        raise ValueError(f"dimensions of sizes {size_of(a)} and {size_of(b)} cannot be one")
    while True:
        a, b = factors_of(a), factors_of(b)
        while a and b and a[-1] is b[-1]:
            a, b = a[:-1], b[:-1]
        if not a or not b:
            return
        x, y = a[-1], b[-1]
        if x.size == y.size:
            _bind(x, y)
            a, b = a[:-1], b[:-1]
        elif not (divide(x, y.size) if x.size > y.size else divide(y, x.size)):
            _pin_both(a, b)
            return


def _bind(x: Leaf, y: Leaf) -> None:
    if y.link is None:
        x, y = y, x
    if x.link is None and x not in set(leaves_of((y,))):
        y.copies = y.copies and x.copies
        refine(x, Product((y,)))
    elif isinstance(x.link, Concat) and isinstance(y.link, Concat):
        _align(x, y)
    elif isinstance(x.link, Relabel) and isinstance(y.link, Relabel) and np.array_equal(x.link.units, y.link.units):
        unify(x.link.inner, y.link.inner)
    else:
        _pin_both((x,), (y,))


def _align(x: Leaf, y: Leaf) -> None:
    left, right = parts_of(x), parts_of(y)
    while left:
        a, b = left.pop(0), right.pop(0)
        if size_of(a) > size_of(b):
            left, right, a, b = right, left, b, a
        if size_of(a) < size_of(b):
            cut = split(b, size_of(a))
            if cut is None:
                _pin_both((x,), (y,))
                return
            b, rest = cut
            right.insert(0, rest)
        unify(a, b)
    x.link = Product((y,))


def _pin_both(a: Dim, b: Dim) -> None:
    reason = f"read both as {show(a)} and as {show(b)}"
    pin(a, reason)
    pin(b, reason)
