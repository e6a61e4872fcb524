"""Cooling down in rounds, on a clock of the test's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselab.ops.cpu.matrix import CpuMatrix
from sparselab.permutation import search_permutation
from sparselab.permutation.annealed_assignment import survivors
from sparselab.permutation.rounds import rounds


class Clock:
    """A search that costs ``overhead`` seconds a round and ``move`` seconds a move."""

    def __init__(self, overhead=0.0, move=0.0, limit=None):
        self.now, self.overhead, self.move, self.limit = 0.5, overhead, move, limit

    def elapsed(self):
        return self.now

    def running(self):
        return self.limit is None or self.now < self.limit

    def work(self, moves):
        self.now += self.overhead + self.move * moves


@pytest.mark.parametrize("moves", [1, 23, 24, 25, 1000])
def test_without_a_clock_the_moves_are_made(moves):
    found = list(rounds(Clock(), moves, None))
    assert sum(count for _, count, _ in found) == moves
    assert len(found) <= 24
    assert [share for share, _, _ in found] == sorted({share for share, _, _ in found})
    assert {expected for _, _, expected in found} == {moves}


@pytest.mark.parametrize("seconds", [0.1, 5.0, 600.0])
@pytest.mark.parametrize("overhead", [0.0, 1e-3, 3e-3])
def test_with_a_clock_the_time_is_filled_with_moves(seconds, overhead):
    """Even where a round costs almost as much as there is time for it."""
    clock, made, lasted = Clock(overhead, 1e-5), 0, []
    for share, count, expected in rounds(clock, 7, 0.5 + seconds):
        before = clock.now
        clock.work(count)
        made += count
        lasted.append(clock.now - before)
        assert share == pytest.approx((before - 0.5) / seconds)
        if share > 0.5:
            assert count <= expected
    assert clock.now - 0.5 == pytest.approx(seconds, rel=0.05, abs=2 * overhead)
    assert max(lasted) < 1.1 * min(1.0, max(0.02, seconds / 24))
    assert made * 1e-5 > 0.5 * seconds
    if overhead < 1e-3 * seconds:
        assert made * 1e-5 > 0.9 * seconds


def test_a_slow_move_ends_it():
    clock = Clock(move=3.0)
    counts = []
    for _, count, _ in rounds(clock, 7, 1.5):
        clock.work(count)
        counts.append(count)
    assert counts == [1]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_the_worst_quarter_goes_on_from_the_best(values):
    chosen, quarter = survivors(np.array(values)), len(values) // 4
    falling = sorted(values, reverse=True)
    assert sorted(values[k] for k in chosen) == sorted(falling[: len(values) - quarter] + falling[:quarter])
    assert quarter or sorted(chosen) == list(range(len(values)))


def test_auto_has_as_many_chains_as_run_side_by_side_where_a_clock_decides(monkeypatch):
    seen, assign = [], CpuMatrix.assign

    def spy(matrix, orders, noise, seeds):
        seen.append((matrix.channels, len(orders)))
        return assign(matrix, orders, noise, seeds)

    monkeypatch.setattr(CpuMatrix, "assign", spy)
    monkeypatch.setattr(CpuMatrix, "side_by_side", 5)
    matrix = np.random.default_rng(0).random((8, 132))
    for limit, chains in ((0.1, 5), (None, 2)):
        seen.clear()
        search_permutation(matrix, time_limit=limit)
        assert {count for channels, count in seen if channels == 132} == {chains}
