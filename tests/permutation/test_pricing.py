"""Bounds by prices: never below the optimum, and worth having."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselab.ops.backends import load
from sparselab.permutation import bounds, search_permutation


@st.composite
def scores(draw):
    """Twelve channels of few or many rows: plain, whole, with a long tail, or mostly zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.random((draw(st.integers(1, 70)), 12))
    kind = draw(st.sampled_from(["plain", "whole", "tail", "sparse", "zero"]))
    changed = {
        "plain": lambda: values,
        "whole": lambda: np.rint(200 * values),
        "tail": lambda: values / (1.001 - values) ** 2,
        "sparse": lambda: values * (rng.random(values.shape) < 0.2),
        "zero": lambda: values * 0,
    }
    return changed[kind]()


@pytest.mark.parametrize("n", [1, 2, 3])
@settings(max_examples=15, deadline=None)
@given(values=scores(), seed=st.integers(0, 99))
def test_no_group_gains_more_than_its_channels_are_told(n, values, seed):
    matrix = load(np.ascontiguousarray(values.T), n, 4, "cpu")
    charges = np.random.default_rng(seed).random(12) * values.sum() / matrix.scale / 12
    most = np.full(12, -np.inf)
    for group in itertools.combinations(range(12), 4):
        members = list(group)
        retained = np.sort(values[:, members], axis=1)[:, 4 - n :].sum() / matrix.scale
        most[members] = np.maximum(most[members], retained - charges[members].sum())
    found = matrix.most_gains(charges)
    rounding = 1e-6 * values.sum() / matrix.scale  # of float32
    assert (found >= most - rounding).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_bound_lies_between_the_optimum_and_the_ideal(n, monkeypatch):
    values = np.random.default_rng(n).random((96, 12))
    optimum = search_permutation(values, f"{n}:4", strategy="exhaustive")
    monkeypatch.setattr(bounds, "MAX_CHANNELS", 8)
    monkeypatch.setattr(bounds.exhaustive, "MAX_CHANNELS", 8)
    bounded = search_permutation(values, f"{n}:4", strategy="identity", bound=True)
    assert optimum.retained <= bounded.upper_bound < bounded.ideal
    assert optimum.retained > 0.98 * bounded.upper_bound


def test_charges_beyond_the_integers_bound_nothing():
    matrix = load(np.ones((8, 5)), 2, 4, "cpu")
    assert (matrix.most_gains(np.full(8, 1e12)) == np.inf).all()
