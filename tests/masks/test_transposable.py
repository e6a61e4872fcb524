"""Masks that are N:M both ways: what the solvers promise beyond the contract of all calculators."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment

import sparselab as sl
from sparselab.core import progress
from sparselab.ops import masks as ops
from sparselab.ops import transposable


def kept(weight, mask):
    return float(weight.abs().double()[mask].sum())


@given(
    m=st.sampled_from([1, 2, 4, 5, 8]),
    data=st.data(),
    levels=st.sampled_from([1, 3, 10**6]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_fast_masks_are_whole_on_every_backend(m, data, levels, seed):
    n = data.draw(st.integers(1, m))
    values = np.random.default_rng(seed).integers(-levels, levels + 1, (2 * m, 3 * m)).astype(np.float32)
    scores = torch.from_numpy(values)
    mask = transposable.fast_blocks(scores, n, m)
    assert (mask.reshape(2 * m, 3, m).sum(2) == n).all()
    assert (mask.reshape(2, m, 3 * m).sum(1) == n).all()
    assert torch.equal(mask, transposable.fast_blocks_torch(scores, n, m))


@pytest.mark.parametrize(("n", "m"), [(4, 8), (8, 16), (2, 8)])
def test_fast_is_near_the_best(n, m):
    weight = torch.randn(16 * m, 4 * m, generator=torch.Generator().manual_seed(0))
    best, fast = (kept(weight, sl.create_mask(weight, f"m{m}n{n}_2d_{name}")) for name in ("best", "fast"))
    assert 0.99 * best < fast < best


def test_fast_completes_what_greed_leaves_short():
    block = torch.tensor([[9.0, 8.0, 1.0], [7.0, 6.0, 2.0], [5.0, 4.0, 3.0]])
    greedy = ops.greedy_blocks(block, 2, 3)
    assert greedy.sum(1).tolist() == [2, 2, 1]
    assert transposable.fast_blocks(block, 2, 3).sum(1).tolist() == [2, 2, 2]


def test_one_of_eight_is_an_assignment():
    weight = torch.randn(32, 16, generator=torch.Generator().manual_seed(1)).double()
    expected = 0.0
    for top in range(0, 32, 8):
        for left in range(0, 16, 8):
            block = weight[top : top + 8, left : left + 8].abs().numpy()
            expected += block[linear_sum_assignment(block, maximize=True)].sum()
    assert kept(weight, sl.create_mask(weight, "m8n1_2d_best")) == pytest.approx(expected, rel=1e-12)


def test_the_best_settles_what_is_closer_than_the_solver_looks():
    mask = sl.create_mask(torch.rand(8, 8), "m8n4_2d_best")
    tiny = 1e-9 * mask.double()
    tiny[0] *= 1e9
    assert torch.equal(sl.create_mask(tiny, "m8n4_2d_best"), mask)


@pytest.mark.parametrize("name", ["best", "fast"])
def test_neither_device_nor_threads_nor_large_scores_change_anything(name):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    mask = sl.create_mask(weight, f"m4n2_2d_{name}")
    assert torch.equal(sl.create_mask(weight / weight.abs().max() * 3e38, f"m4n2_2d_{name}"), mask)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(sl.create_mask(weight, f"m4n2_2d_{name}"), mask)
    finally:
        torch.set_num_threads(threads)


def test_a_solver_that_works_long_shows_how_far_it_is(monkeypatch, capfd):
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0.0)
    sl.create_mask(torch.rand(8, 8), "m8n4_2d_best")
    assert "2d masks, 4:8" in capfd.readouterr().err
