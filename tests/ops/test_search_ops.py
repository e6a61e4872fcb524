"""The primitives of every backend against the reference, and the reference against its definition."""

import numpy as np
import pytest
from llvmlite import binding
from numba import njit
from scipy.optimize import linear_sum_assignment

from sparselab.ops.backends import load
from sparselab.ops.cpu import annealing, differences, tables
from sparselab.ops.cpu.matching import match

PATTERNS = [(2, 4), (1, 4), (1, 2), (4, 8), (3, 3)]


def matrices(n, m, channels=24, rows=37, seed=0):
    values = np.random.default_rng(seed).random((channels, rows)).astype(np.float32)
    return load(values, n, m, "cpu"), load(values, n, m, "reference")


def close(cpu, reference, found, expected):
    np.testing.assert_allclose(
        np.asarray(found) * cpu.scale, np.asarray(expected) * reference.scale, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_tables_agree_with_the_reference(n, m):
    cpu, reference = matrices(n, m)
    rng = np.random.default_rng(1)
    order = rng.permutation(24)
    slots, channels = rng.choice(24, 7, replace=False), rng.choice(24, 9, replace=False)
    groups = order.reshape(-1, m)
    close(cpu, reference, cpu.retained(order), reference.retained(order))
    close(cpu, reference, cpu.channel_sums(), reference.channel_sums())
    close(cpu, reference, cpu.group_table(groups), reference.group_table(groups))
    close(cpu, reference, cpu.table(order, slots, channels), reference.table(order, slots, channels))
    close(cpu, reference, cpu.completions(groups[:, :-1]), reference.completions(groups[:, :-1]))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (4, 8)])
def test_partitions_agree_with_the_reference(n, m, monkeypatch):
    from sparselab.ops.cpu import matrix
    from sparselab.permutation.stripe_groups import partitions

    sets = np.array([[0, 2], [1, 2], [0, 1]])
    order = np.random.default_rng(4).permutation(24)
    subsets, parts = partitions(2 * m, m)
    for known in (2**20, 0):  # looked up in the table of all groups, and scored set by set
        monkeypatch.setattr(matrix, "_KNOWN", known)
        cpu, reference = matrices(n, m)
        gains, dealt = cpu.best_partitions(order, sets, subsets, parts)
        expected, expected_dealt = reference.best_partitions(order, sets, subsets, parts)
        close(cpu, reference, gains, expected)
        assert (dealt == expected_dealt).all()


def swap_gains(matrix, order, slots):
    """What swapping the channels of every two slots adds, from the definition; 0 within a group."""
    gains = np.zeros((len(slots), len(slots)))
    for row, slot in enumerate(slots):
        for column, other in enumerate(slots):
            swapped = order.copy()
            swapped[[slot, other]] = swapped[[other, slot]]
            gains[row, column] = matrix.retained(swapped) - matrix.retained(order)
    return gains


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (4, 8)])
@pytest.mark.parametrize("most", [4, 1000])  # many equal gains, and few
def test_best_swaps_are_what_taking_the_best_again_and_again_takes(n, m, most):
    values = np.random.default_rng(most).integers(0, most, (32, 6)).astype(np.float32)
    matrix, order = load(values, n, m, "reference"), np.random.default_rng(1).permutation(32)
    slots = np.arange(8, 32)
    cpu = load(values, n, m, "cpu")
    swaps = cpu.swaps(order, slots)
    for _ in range(3):
        gains = swap_gains(matrix, order, slots)
        least = 0.2 * gains.max()
        free, expected = np.ones(len(slots), bool), []
        while True:
            left = np.where(np.triu(np.outer(free, free), 1), gains, -1)
            one, two = np.unravel_index(left.argmax(), left.shape)
            if left[one, two] <= least:
                break
            expected.append([one, two])
            for group in (one // m, two // m):
                free[group * m : group * m + m] = False
        found = swaps.best(0.2, 0.0)
        assert found.tolist() == expected
        if not expected:
            break
        order[slots[found]] = order[slots[found[:, ::-1]]]
        assert (swaps.make(found) == order).all()
        close(cpu, matrix, swaps.values, matrix.group_table(order[slots].reshape(-1, m)))


def test_rows_are_summed_in_blocks(monkeypatch):
    values = np.random.default_rng(0).random((8, tables.BLOCK + 5)).astype(np.float32)
    cpu, reference = load(values, 2, 4, "cpu"), load(values, 2, 4, "reference")
    order = np.arange(8)
    close(cpu, reference, cpu.retained(order), reference.retained(order))
    close(cpu, reference, cpu.table(order, order, order), reference.table(order, order, order))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("n", "m"), PATTERNS[:4])
def test_annealing_permutes_and_quiet_moves_gain(backend, n, m):
    values = np.random.default_rng(5).random((16, 20)).astype(np.float32)
    matrix = load(values, n, m, backend)
    orders, seeds = np.tile(np.arange(16), (2, 1)), np.array([1, 2])
    start = matrix.retained(orders[0])
    for found in (
        matrix.assign(orders, np.zeros(20), seeds),
        matrix.anneal(orders, 500, 0.0, 0.0, seeds),
        matrix.anneal(orders, 500, 0.1 * start / 16, 0.01 * start / 16, seeds),
    ):
        assert (np.sort(found, axis=1) == np.arange(16)).all()
        assert all(matrix.retained(order) > start for order in found)
    assert (orders == np.arange(16)).all()


@pytest.mark.parametrize(("n", "m"), PATTERNS[:4])
def test_kernels_report_the_gain_they_made(n, m):
    scores, _ = differences.quantised(np.random.default_rng(3).random((32, 70)).astype(np.float32))

    def value(order):
        ranked = np.sort(scores[order].astype(int).reshape(-1, m, scores.shape[1]), axis=1)
        return int(ranked[:, m - n :].sum())

    groups = np.arange(32 // m)
    for run in (
        lambda order: annealing.deal(scores, order, groups, n, m, np.full(12, 90.0), 7),
        lambda order: annealing.swap(scores, order, groups, n, m, 800, 300.0, 30.0, 7),
    ):
        order = np.arange(32)
        gain = run(order)
        assert sorted(order) == list(range(32))
        assert 2 * (value(order) - value(np.arange(32))) == gain


def test_only_the_groups_asked_for_move():
    scores, _ = differences.quantised(np.random.default_rng(3).random((32, 70)).astype(np.float32))
    order = np.arange(32)
    annealing.deal(scores, order, np.array([1, 4, 6]), 2, 4, np.full(9, 50.0), 7)
    still = [slot for slot in range(32) if slot // 4 not in (1, 4, 6)]
    assert (order[still] == still).all()


@pytest.mark.parametrize("instruction", differences._INSTRUCTIONS, ids=lambda instruction: instruction.feature)
def test_every_width_of_the_instruction_gives_the_same_sums(instruction):
    if not binding.get_host_cpu_features().get(instruction.feature):
        pytest.skip("this processor has no such instruction")
    pair, tile = differences._by_instruction(instruction)

    @njit
    def sums(left, right, out):
        for s in range(0, len(left), differences.TILE):
            for x in range(0, len(right), differences.TILE):
                tile(left, s, right, x, out)
        return pair(left, 3, right, 5)

    left, right = np.random.default_rng(0).integers(0, 256, (2, 8, 192), np.uint8)
    out = np.empty((8, 8), np.int32)
    single = sums(left, right, out)
    expected = np.abs(left[:, None].astype(int) - right).sum(axis=2)
    assert (out == expected).all()
    assert single == expected[3, 5]


def test_differences_are_the_same_with_and_without_the_instruction():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, 8, 128), dtype=np.uint8)
    expected = np.abs(left[:, None].astype(int) - right[None]).sum(axis=2)
    found, plain = np.empty((8, 8), np.int32), np.empty((8, 8), np.int32)
    differences.product(left, right, found)
    for s in (0, 4):
        for x in (0, 4):
            differences.plain_tile(left, s, right, x, plain)
    assert (found == expected).all()
    assert (plain == expected).all()


def test_small_integers_are_kept_as_they_are():
    values = np.random.default_rng(0).integers(0, 200, (8, 10)).astype(np.float32)
    scores, levels = differences.quantised(values)
    assert levels == 1.0
    assert (scores[:, :10] == values).all()
    assert (scores[:, 10:] == 0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("spread", [2, 30, 100_000])
def test_matching_is_the_best(size, spread):
    rng = np.random.default_rng(size * spread)
    for _ in range(10):
        cost = rng.integers(-spread, spread + 1, (size, size), dtype=np.int32)
        found = np.empty(size, np.int32)
        match(cost, size, found)
        rows, columns = linear_sum_assignment(cost)
        assert sorted(found) == list(range(size))
        assert cost[np.arange(size), found].sum() == cost[rows, columns].sum()


@pytest.mark.parametrize("name", ["gpu", ""])
def test_unknown_backends_say_what_there_is(name):
    with pytest.raises(ValueError, match=r"valid: auto, cpu, cuda, reference"):
        load(np.ones((4, 4), np.float32), 2, 4, name)
