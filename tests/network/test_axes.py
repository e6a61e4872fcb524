"""The algebra of dimensions, against explicit index arrays."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselab.network.axes import (
    choose,
    divide,
    fresh,
    join,
    leaves_of,
    piece,
    pin,
    reasons_of,
    reslice,
    show,
    size_of,
    split,
    take_tail,
    unify,
)
from sparselab.network.free_axes import Axis, order_of


def order(dim, orders):
    """The order of one dimension, given one for each leaf."""
    axes = {Axis((leaf,), ()): np.array([o]) for leaf, o in orders.items()}
    return order_of((dim,), axes, {leaf: axis for axis in axes for leaf in axis.leaves})


def test_a_view_cuts_products_and_finds_them_again() -> None:
    (dim,) = (fresh(24),)
    heads, width = reslice((dim,), (4, 6), "why")
    assert (size_of(heads), size_of(width), show(dim)) == (4, 6, "(4x6)")
    assert reslice((heads, width), (24,), "why") == ((*heads, *width),)
    (whole,) = reslice((heads, width), (24,), "why")
    assert not reasons_of(whole)


def test_sizes_that_do_not_nest_are_pinned_on_both_sides() -> None:
    a, b = fresh(6), fresh(6)
    assert take_tail(a, 3)
    assert take_tail(b, 2)
    unify(a, b)
    assert reasons_of(a) == reasons_of(b) == ["read both as (2x3) and as (3x2)"]


def test_nested_concats_align() -> None:
    a, b, c = fresh(3), fresh(5), fresh(4)
    left, right = join([join([a, b]), c]), fresh(12)
    cut = split(right, 8)
    assert cut
    unify(left, right)
    assert [size_of((leaf,)) for leaf in leaves_of(right)] == [3, 5, 4]
    assert list(leaves_of(left)) == list(leaves_of(right))


def test_a_concat_factors_when_all_its_parts_do() -> None:
    a, b = fresh(8), fresh(12)
    dim = join([a, b])
    assert divide(dim[0], 4)
    assert show(dim) == "([2 | 3]x4)"
    assert list(leaves_of(a))[1] is list(leaves_of(b))[1]
    odd = join([fresh(3), fresh(5)])
    assert not divide(odd[0], 4)


def test_a_pinned_leaf_pins_what_it_is_found_to_be() -> None:
    a, b = fresh(6, "because"), join([fresh(2), fresh(4)])
    unify(a, b)
    assert reasons_of(b) == ["because"]
    later = fresh(6)
    pin(later, "late")
    assert take_tail(later, 2)
    assert reasons_of(later) == ["late"]


def test_unequal_sizes_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="sizes 3 and 4"):
        unify(fresh(3), fresh(4))


@pytest.mark.parametrize("index", [[2, 0, 1, 3], [3, 1], [1, 2]])
def test_a_constant_index_follows_the_chosen(index: list[int]) -> None:
    dim = fresh(4)
    chosen = choose(dim, np.array(index), "why")
    leaves = list(dict.fromkeys(leaves_of(dim)))
    x = np.arange(4)
    for orders in itertools.product(*(itertools.permutations(range(leaf.size)) for leaf in leaves)):
        moves = {leaf: np.array(o) for leaf, o in zip(leaves, orders, strict=True)}
        moved = x[order(dim, moves)]
        assert (moved[index] == x[index][order(chosen, moves)]).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_orders_of_pieces_agree_with_the_order_of_the_whole(data: st.DataObject) -> None:
    """Cutting a moved array gives the moved cuts, however concat and product are nested."""
    parts = data.draw(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=1, max_size=3))
    inner = data.draw(st.sampled_from([1, 2, 3]))
    dim = join([fresh(size) for size in parts]) + fresh(inner)
    total = size_of(dim)
    at = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(at + 1, total))
    cut = piece(dim, at, stop, "cut across")
    leaves = [leaf for leaf in dict.fromkeys([*leaves_of(dim), *leaves_of(cut)]) if leaf.reason is None]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    orders = {leaf: rng.permutation(leaf.size) for leaf in leaves}
    x = np.arange(total)
    whole = x[order(dim, orders)]
    assert sorted(whole) == list(x)
    assert (whole[at:stop] == x[at:stop][order(cut, orders)]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([2, 3, 4, 5]), min_size=2, max_size=4), st.integers(0, 99))
def test_reslicing_never_changes_which_number_is_meant(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    dims = tuple(fresh(size) for size in sizes)
    total = math.prod(sizes)
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    outer = int(rng.choice(divisors))
    made = reslice(dims, (outer, total // outer), "cut across")
    leaves = [leaf for dim in (*dims, *made) for leaf in leaves_of(dim) if leaf.reason is None]
    orders = {leaf: rng.permutation(leaf.size) for leaf in leaves}
    axes = {Axis((leaf,), ()): np.array([o]) for leaf, o in orders.items()}
    owner = {leaf: axis for axis in axes for leaf in axis.leaves}
    assert (order_of(dims, axes, owner) == order_of(made, axes, owner)).all()
