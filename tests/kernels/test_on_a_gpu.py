"""What only a GPU can show: real launches, torch's memory and streams. ``make test-gpu``."""

import numpy as np
import pytest
import torch

from sparselab.masks import create_mask
from sparselab.ops import cuda
from sparselab.ops.backends import load
from sparselab.ops.cuda import masks
from sparselab.ops.cuda.device import device_of, own_stream
from sparselab.ops.cuda.kernels import Launcher
from sparselab.ops.masks import top_n_of_m_torch
from sparselab.permutation import search_permutation, search_permutations
from sparselab.permutation.stripe_groups import partitions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda.missing() is not None, reason=f"no GPU to use: {cuda.missing()}"),
]

needs_torch = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch is built without CUDA")


def integers(channels, rows):
    return np.random.default_rng(0).integers(0, 200, (channels, rows)).astype(np.float32)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 8), (3, 3), (8, 16)])
@pytest.mark.parametrize(("channels", "rows"), [(48, 37), (288, 1100)])
def test_primitives_are_the_cpus(n, m, channels, rows):
    values, order = integers(channels, rows), np.random.default_rng(1).permutation(channels)
    ours, theirs = (load(values, n, m, backend) for backend in ("cuda", "cpu"))
    slots, groups = np.sort(order[:20]), order.reshape(-1, m)
    sets = np.array([[0, 2], [1, 2], [0, 1]])
    orders, seeds = np.tile(order, (3, 1)), np.array([1, 2, 3])
    hot = 0.02 * theirs.retained(order) / channels
    for ask in (
        lambda matrix: matrix.retained(order),
        lambda matrix: matrix.channel_sums(),
        lambda matrix: matrix.group_table(groups),
        lambda matrix: matrix.table(order, slots, order),
        lambda matrix: matrix.completions(groups[:5, :-1]),
        lambda matrix: matrix.anneal(orders, 500, hot, hot / 5, seeds),
        lambda matrix: matrix.assign(orders, np.linspace(hot, 0, 20), seeds),
    ):
        np.testing.assert_array_equal(ask(ours), ask(theirs))
    if m <= 8:
        found, expected = (matrix.best_partitions(order, sets, *partitions(2 * m, m)) for matrix in (ours, theirs))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("groups", [250, 600, 1024, 4096])  # a warp that matches alone, and 3, 4 and 16
@pytest.mark.parametrize("most", [3, 200])  # many equal deals, and few
def test_moves_of_many_groups_are_the_cpus(groups, most):
    values = np.random.default_rng(0).integers(0, most, (2 * groups, 40)).astype(np.float32)
    ours, theirs = (load(values, 1, 2, backend) for backend in ("cuda", "cpu"))
    orders, seeds = np.tile(np.arange(2 * groups), (2, 1)), np.array([1, 2])
    noise = np.array([0.05, 0.05, 0.0]) * theirs.retained(orders[0]) / groups
    np.testing.assert_array_equal(ours.assign(orders, noise, seeds), theirs.assign(orders, noise, seeds))


def test_swaps_are_the_cpus():
    values, order = integers(288, 300), np.random.default_rng(1).permutation(288)
    ours, theirs = (load(values, 2, 4, backend).swaps(order, np.arange(16, 288)) for backend in ("cuda", "cpu"))
    while len(pairs := theirs.best(1e-5, 1e-6)):
        assert sorted(ours.best(1e-5, 1e-6).tolist()) == sorted(pairs.tolist())
        assert (ours.make(pairs) == theirs.make(pairs)).all()


@pytest.mark.parametrize("spec", ["channel_swap,5", "stripe_groups,8,3", "stripe_groups,12", "assignment", "auto"])
def test_strategies_find_the_orders_of_the_cpu(spec):
    matrix = integers(64, 96).T
    cpu, ours = (search_permutation(matrix, strategy=spec, seed=2, backend=backend) for backend in ("cpu", "cuda"))
    assert (cpu.order == ours.order).all()
    assert ours.backend == "cuda"


def test_floats_agree_to_1e_5():
    values = np.random.default_rng(0).random((256, 5000)).astype(np.float32)
    order = np.arange(256)
    ours, exact = (load(values, 2, 4, backend) for backend in ("cuda", "reference"))
    assert ours.retained(order) * ours.scale == pytest.approx(exact.retained(order), rel=1e-6)
    found = ours.table(order, order[:4], order) * ours.scale
    np.testing.assert_allclose(found, exact.table(order, order[:4], order), rtol=1e-5)


def test_too_much_is_a_memory_error():
    device = own_stream()
    with pytest.raises(MemoryError, match=r"MiB left and .* MiB are needed"):
        device.empty((2**31, 2**10), np.float32)
    assert load(integers(8, 4), 2, 4, "cuda").retained(np.arange(8)) > 0


def test_an_error_is_an_exception():
    device = own_stream()
    host = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="not on the device"):
        Launcher(device, 2, 4)("channel_sums", (4,), 128, host, 3, device.empty((4,), np.float64))


@needs_torch
@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 5), (16, 32)])
def test_masks_are_torchs(n, m):
    scores = torch.randn(301, m * 7, device="cuda")
    assert torch.equal(create_mask(scores, f"{n}:{m}"), top_n_of_m_torch(scores, n, m))
    assert torch.equal(create_mask(scores[:, : m * 3], f"{n}:{m}"), top_n_of_m_torch(scores[:, : m * 3], n, m))


@needs_torch
def test_the_least_scores_are_told_apart():
    scores = 1e-45 * torch.randint(-9, 9, (64, 4), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(create_mask(scores.cuda(), "2:4").cpu(), create_mask(scores, "2:4"))


@needs_torch
def test_work_is_in_the_order_of_torchs_stream():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        scores, last = torch.zeros(1024, 1024, device="cuda"), torch.rand(1024, 1024, device="cuda")
        torch.cuda._sleep(10**8)  # what runs on another stream would see zeros
        scores.copy_(last)
        mask = masks.top_n_of_m(scores, 2, 4, device_of(scores))
    stream.synchronize()
    assert torch.equal(mask, top_n_of_m_torch(last, 2, 4))


@needs_torch
def test_searches_side_by_side_find_what_they_find_alone():
    matrices = [integers(64, 40 + k).T for k in range(6)]
    options = {"strategy": "annealed_assignment,20", "backend": "cuda"}
    together = search_permutations(matrices, **options)
    for k, result in enumerate(together):
        assert (result.order == search_permutation(matrices[k], seed=k, **options).order).all()
