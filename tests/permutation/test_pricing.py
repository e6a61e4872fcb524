"""Bounds by prices: never below what can be had, and worth having."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sparselab.ops.backends import load
from sparselab.ops.cpu.matrix import CpuMatrix
from sparselab.ops.threads import at_most
from sparselab.permutation import bounds, pricing, search_permutation
from sparselab.permutation.covering import Covering
from sparselab.permutation.soft_prices import SoftProgram

KINDS = {
    "plain": lambda values, rng: values,
    "whole": lambda values, rng: np.rint(200 * values),
    "tail": lambda values, rng: values / (1.001 - values) ** 2,
    "scaled": lambda values, rng: values * np.exp(rng.normal(size=values.shape[1])),
    "sparse": lambda values, rng: values * (rng.random(values.shape) < 0.2),
    "equal": lambda values, rng: np.ones_like(values),
    "zero": lambda values, rng: values * 0,
}


def scores(kind, rows, channels, seed=0):
    rng = np.random.default_rng(seed)
    return KINDS[kind](rng.random((rows, channels)), rng)


@st.composite
def twelve_channels(draw):
    return scores(draw(st.sampled_from(list(KINDS))), draw(st.integers(1, 70)), 12, draw(st.integers(0, 2**32)))


def priced(values, monkeypatch, n=2, **options):
    """The result with a bound by prices, however few channels."""
    monkeypatch.setattr(bounds, "SMALL", 0)
    monkeypatch.setattr(bounds.exhaustive, "MAX_CHANNELS", 0)
    options = {"strategy": "assignment", "bound": True, **options}
    return search_permutation(values, f"{n}:4", **options)


def by_the_program(values, n=2):
    matrix = load(np.ascontiguousarray(values.T), n, 4, "cpu")
    covering = Covering(matrix, lambda: True)
    covering.solve(np.arange(values.shape[1])[None])
    return covering.bound * matrix.scale


def all_gains(values, n, charges):
    """Every group, and what it retains less its charges."""
    groups = np.array(list(itertools.combinations(range(values.shape[1]), 4)))
    retained = np.sort(values[:, groups], axis=2)[:, :, 4 - n :].sum(axis=(0, 2))
    return groups, retained - charges[groups].sum(axis=1)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("exactly", [False, True])
@settings(max_examples=15, deadline=None)
@given(values=twelve_channels(), seed=st.integers(0, 99), count=st.sampled_from([40, 200, 100_000]))
def test_no_group_that_is_not_found_gains_more_than_is_said(n, exactly, values, seed, count):
    matrix = load(np.ascontiguousarray(values.T), n, 4, "cpu")
    charges = np.random.default_rng(seed).random(12) * values.sum() / matrix.scale / 12
    groups, gains = all_gains(values / matrix.scale, n, charges)
    found, most = matrix.best_groups(charges, count, exactly)
    known = {tuple(sorted(group)) for group in found.tolist()}
    others = np.array([tuple(group) not in known for group in groups.tolist()])
    assert len(known) == len(found) <= count
    assert len(found) == 495 or count < 100_000
    rounding = 1e-6 * values.sum() / matrix.scale  # of float32
    assert gains[others].max(initial=-np.inf) <= most + rounding


@pytest.mark.parametrize("n", [1, 2, 3])
def test_exchanges_are_the_best_groups_one_channel_away(n):
    values = np.random.default_rng(n).integers(0, 256, (40, 16)).astype(float)
    values[0, 0] = 255  # so that a level is a whole one, and bytes are exact
    matrix = load(np.ascontiguousarray(values.T), n, 4, "cpu")
    charges = np.arange(16.0) * 8 / matrix.scale
    start = np.array([[0, 3, 7, 9], [1, 2, 3, 15]])
    groups, gains = all_gains(values / matrix.scale, n, charges)
    near = np.array([max(len({*group} & {*each}) for each in start.tolist()) >= 3 for group in groups.tolist()])
    found = matrix.best_exchanges(charges, start, 30)
    assert len(np.unique(found, axis=0)) == 30
    by_group = dict(zip(map(tuple, groups[near].tolist()), gains[near]))
    assert sorted(by_group[tuple(group)] for group in found.tolist()) == sorted(by_group.values())[-30:]


def test_charges_beyond_the_integers_say_nothing():
    matrix = load(np.ones((8, 5)), 2, 4, "cpu")
    groups, most = matrix.best_groups(np.full(8, 1e12), 10, False)
    assert not len(groups)
    assert most == np.inf
    assert not len(matrix.best_exchanges(np.full(8, 1e12), np.arange(8).reshape(2, 4), 10))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_bound_lies_between_the_optimum_and_the_ideal(n, monkeypatch):
    values = np.random.default_rng(n).random((96, 12))
    optimum = search_permutation(values, f"{n}:4", strategy="exhaustive")
    bounded = priced(values, monkeypatch, n, strategy="identity")
    assert optimum.retained <= bounded.upper_bound < bounded.ideal
    assert optimum.retained > 0.98 * bounded.upper_bound


@pytest.mark.parametrize(("kind", "rows", "channels"), [("plain", 64, 48), *((kind, 30, 32) for kind in KINDS)])
def test_the_bound_is_that_of_the_linear_program(kind, rows, channels, monkeypatch):
    values = scores(kind, rows, channels)
    program, bounded = by_the_program(values), priced(values, monkeypatch)
    assert bounded.upper_bound >= min(program * (1 - 1e-5), bounded.ideal)
    assert (
        bounded.upper_bound <= program * (1 + 1e-5) + 0.01 * (bounded.ideal - bounded.baseline) + 1e-5 * bounded.ideal
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_bound_holds_where_few_groups_are_found(kind, monkeypatch):
    values = scores(kind, 30, 32)
    monkeypatch.setattr(pricing, "_FOUND", 300)
    monkeypatch.setattr(pricing, "_ROUNDS", pricing._ROUNDS[:3])
    bounded = priced(values, monkeypatch)
    assert bounded.upper_bound >= min(by_the_program(values) * (1 - 1e-5), bounded.ideal)


@pytest.mark.parametrize("channels", [68, 96])
def test_the_bound_does_not_depend_on_threads(channels):
    values = scores("scaled", 50, channels)
    found = []
    for threads in (1, 2, 3):
        with at_most(threads):
            found.append(search_permutation(values, strategy="assignment", bound=True).upper_bound)
    assert found[0] == found[1] == found[2]


def test_an_interrupt_leaves_the_bound_of_the_sweeps_that_are_done(monkeypatch):
    values, swept, sweep = scores("tail", 30, 32), [], CpuMatrix.best_groups

    def interrupted(*options):
        swept.append(options)
        if len(swept) > 1:
            raise KeyboardInterrupt
        return sweep(*options)

    monkeypatch.setattr(CpuMatrix, "best_groups", interrupted)
    monkeypatch.setattr(pricing, "_FOUND", 300)
    bounded = priced(values, monkeypatch)
    assert len(swept) == 2
    assert bounded.interrupted
    assert bounded.retained <= bounded.upper_bound <= bounded.ideal


def test_soft_prices_come_from_above_to_those_of_the_program():
    rng = np.random.default_rng(0)
    groups = np.array(list(itertools.combinations(range(12), 4)))[rng.permutation(495)[:300]]
    values, least = rng.random(300), np.full(12, -5.0)
    covers = np.zeros((300, 12))
    covers[np.arange(300)[:, None], groups] = 1
    exact = linprog(np.ones(12), A_ub=-covers, b_ub=-values, bounds=(-5, None)).fun
    program, prices, above = SoftProgram(groups, values, least), np.zeros(12), []
    for temperature in (0.1, 0.01, 0.001):
        prices = program.solve(prices, temperature)
        assert program.gains(prices).max() <= 0.01 * temperature
        assert (prices >= least).all()
        above.append(prices.sum() - exact)
    assert -1e-6 < above[2] < above[1] < above[0]
    assert above[2] < 0.001
