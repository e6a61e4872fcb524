"""The whole CUDA backend, kernels included, on a CPU that plays GPU: against the reference, and move by move the CPU's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from sparselab.ops.backends import load
from sparselab.ops.cpu.matching import match
from sparselab.ops.cuda import kernels
from sparselab.ops.cuda.kernels import Launcher
from sparselab.ops.cuda.matrix import CudaMatrix
from sparselab.permutation import STRATEGIES, search_permutation, search_permutations
from sparselab.permutation.stripe_groups import partitions

from . import device_on_cpu
from .device_on_cpu import CpuDevice
from .one_deal import dealt, differences

pytestmark = pytest.mark.skipif(not device_on_cpu.available, reason="needs g++")

PATTERNS = [(2, 4), (1, 4), (4, 8), (3, 3)]
SPECS = [
    "identity",
    "random,5",
    "channel_swap,2",
    "stripe_groups,escapes=1",
    "stripe_groups,12",
    "exhaustive",
    "optimal",
    "assignment,snake",
    "anneal,200",
    "annealed_assignment,30",
    "auto",
    "learned,2,1",
]


@pytest.fixture(params=[False, True], ids=["forward", "reverse"])
def device(request):
    return CpuDevice(request.param)


@pytest.fixture
def played(monkeypatch):
    """``backend="cuda"`` is this device."""
    device = CpuDevice()
    monkeypatch.setattr("sparselab.ops.cuda.device.missing", lambda: None)
    monkeypatch.setattr("sparselab.ops.cuda.device.own_stream", lambda: device)
    return device


def integers(channels, rows, most=200, seed=0):
    return np.random.default_rng(seed).integers(0, most, (channels, rows)).astype(np.float32)


def primitives(matrix, order, slots, columns):
    """What every deterministic primitive says, in units of the scores."""
    groups = order.reshape(-1, matrix.m)
    values = {
        "retained": matrix.retained(order),
        "channel_sums": matrix.channel_sums(),
        "group_table": matrix.group_table(groups),
        "table": matrix.table(order, slots, columns),
        "completions": matrix.completions(groups[:3, :-1]),
    }
    if matrix.m in (4, 8):
        sets = np.array([[0, 2], [1, 2], [0, 1], [2, 1]])[: 16 // matrix.m - 1]
        gains, dealt = matrix.best_partitions(order, sets, *partitions(2 * matrix.m, matrix.m))
        values |= {"gains": gains, "dealt": dealt / matrix.scale}
    return {name: np.asarray(value) * matrix.scale for name, value in values.items()}


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("whole", [True, False], ids=["integers", "floats"])
def test_primitives_agree_with_the_reference(device, n, m, whole):
    values = integers(24, 37)
    if not whole:
        values = np.random.default_rng(0).random((24, 37)).astype(np.float32) * 1e20
    rng = np.random.default_rng(1)
    order, slots, columns = rng.permutation(24), rng.choice(24, 7, replace=False), rng.choice(24, 9, replace=False)
    found = primitives(CudaMatrix(values, n, m, device), order, slots, columns)
    expected = primitives(load(values, n, m, "reference"), order, slots, columns)
    largest = float(values.max())
    for name, value in expected.items():
        rtol, atol = (0, 0) if whole else (1e-5, 1e-4 * largest)
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(("channels", "rows"), [(136, 530), (68, 1100), (4, 1)])
def test_sizes_that_fill_no_tile_and_need_several(device, channels, rows):
    """More than one tile of 64 x 128, more than one slice of 512 rows, none of them full."""
    values = integers(channels, rows)
    matrix, reference = CudaMatrix(values, 2, 4, device), load(values, 2, 4, "reference")
    order = np.random.default_rng(2).permutation(channels)
    slots = np.sort(order[:70])
    assert matrix.retained(order) * matrix.scale == reference.retained(order)
    found, expected = (each.table(order, slots, order) for each in (matrix, reference))
    np.testing.assert_array_equal(found * matrix.scale, expected)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("whole", [True, False], ids=["integers", "floats"])
def test_chains_make_the_moves_of_the_cpu(device, n, m, whole):
    """The same bytes, draws and ties: the same orders, also where scores are no integers."""
    values = integers(24, 70) if whole else np.random.default_rng(3).random((24, 70)).astype(np.float32)
    cuda, cpu = CudaMatrix(values, n, m, device), load(values, n, m, "cpu")
    orders, seeds = np.tile(np.random.default_rng(4).permutation(24), (3, 1)), np.array([1, 2, 2**61 + 5])
    hot = 0.02 * cpu.retained(orders[0]) / 24
    for temperature in (0.0, hot):
        noise = np.linspace(temperature, 0.0, 15)
        assert (cuda.assign(orders, noise, seeds) == cpu.assign(orders, noise, seeds)).all()
        cold = temperature / 5
        found = cuda.anneal(orders, 250, temperature, cold, seeds)
        assert (found == cpu.anneal(orders, 250, temperature, cold, seeds)).all()
        assert n == m or (found != orders).any()
    assert (cuda.anneal(orders, 0, 0.0, 0.0, seeds) == orders).all()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("most", [4, 1000])  # many equal gains, and few
def test_best_swaps_are_those_of_the_cpu(device, n, m, most):
    values, order, slots = integers(32, 6, most), np.random.default_rng(0).permutation(32), np.arange(8, 32)
    ours, theirs = (each.swaps(order, slots) for each in (CudaMatrix(values, n, m, device), load(values, n, m, "cpu")))
    rounds = 0
    while len(pairs := theirs.best(1e-5, 1e-6)):
        assert sorted(ours.best(1e-5, 1e-6).tolist()) == sorted(pairs.tolist())
        assert (ours.make(pairs) == theirs.make(pairs)).all()
        assert (ours.values == theirs.values).all()
        rounds += 1
    assert rounds
    assert not len(ours.best(1e-5, 1e-6))


def test_many_groups_and_wide_chains(device):
    """More than one tile of groups and more words than one slice takes."""
    values = integers(280, 700)
    cuda, cpu = CudaMatrix(values, 2, 4, device), load(values, 2, 4, "cpu")
    orders, seeds = np.arange(280)[None], np.array([7])
    noise = np.full(2, 1e-3 * cpu.retained(orders[0]) / 70)
    assert (cuda.assign(orders, noise, seeds) == cpu.assign(orders, noise, seeds)).all()


@pytest.mark.parametrize("groups", [1, 2, 31, 33, 128, 130, 256, 259, 530])
@pytest.mark.parametrize("most", [3, 10_000])  # many equal costs, and hardly any
def test_deals_are_the_cpus_and_the_best(device, groups, most):
    """A warp with 4 columns a thread, with 8, and several warps; of equal deals the same."""
    sums, cost = differences(groups, most)
    expected = np.empty(groups, np.int32)
    match(np.ascontiguousarray(cost), groups, expected)
    found = dealt(sums, device)
    assert found.tolist() == expected.tolist()
    assert cost[np.arange(groups), found].sum() == cost[linear_sum_assignment(cost)].sum()


def without_a_wait(begin, wait, count, place):
    """The search kernels, of whose function ``begin`` the ``wait`` at ``place`` of its ``count`` is left out."""
    before, found, rest = kernels.source("search").partition(begin)
    function, end, after = rest.partition("\n}\n")
    parts = function.split(wait)
    assert len(parts) == count + 1
    function = wait.join(parts[: place + 1]) + wait.join(parts[place + 1 :])
    return before + found + function + end + after


def is_right(text, groups, order, *, seconds=8):
    """Whether ``text``, in a process of its own, comes to the right deal within so many seconds: a spoilt one may hang."""
    library = device_on_cpu.build(text, ["deal_back"], 1, 1)
    expected = dealt(differences(groups, 50)[0], CpuDevice()).tolist()
    command = [sys.executable, Path(__file__).with_name("one_deal.py"), library._name, str(groups), order]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and json.loads(done.stdout) == expected


@pytest.mark.parametrize("groups", [120, 300])
def test_a_deal_is_right_in_a_process_of_its_own(groups):
    for order in ("forward", "reverse"):  # however busy the machine
        assert is_right(kernels.source("search"), groups, order, seconds=120)


@pytest.mark.parametrize(  # of 120 groups one warp has all bidders, and walks alone; of 300 two
    ("begin", "wait", "count", "place", "groups"),
    [
        ("void bid(", "__syncthreads();", 4, 1, 120),  # after the bids are made
        ("void bid(", "__syncthreads();", 4, 2, 300),  # after columns have been won
        ("void bid(", "__syncthreads();", 4, 3, 120),  # after the next bidders are listed
        ("void finish(", "team.wait();", 2, 0, 120),  # after a path is found
        ("void finish(", "team.wait();", 2, 0, 300),
        ("void finish(", "team.wait();", 2, 1, 120),  # after it is taken
        ("void finish(", "team.wait();", 2, 1, 300),
    ],
)
def test_a_wait_that_is_left_out_of_a_deal_shows(begin, wait, count, place, groups):
    mutant = without_a_wait(begin, wait, count, place)
    assert not (is_right(mutant, groups, "forward") and is_right(mutant, groups, "reverse"))


def test_pieces_change_nothing():
    values = integers(32, 40)
    order, slots = np.random.default_rng(0).permutation(32), np.arange(32)
    sets, (subsets, parts) = np.array([[a, b] for a in range(8) for b in range(a)]), partitions(8, 4)
    orders, seeds = np.tile(order, (5, 1)), np.arange(5)
    results, launches = [], []
    for room in (2**28, 2**13):
        device = CpuDevice(room=room)
        matrix = CudaMatrix(values, 2, 4, device)
        results.append([
            matrix.table(order, slots, slots),
            *matrix.best_partitions(order, sets, subsets, parts),
            matrix.assign(orders, np.full(3, 1.0), seeds), matrix.anneal(orders, 20, 1.0, 0.1, seeds),
        ])  # fmt: skip
        launches.append(len(device.launched))
    assert all((whole == pieces).all() for whole, pieces in zip(*results))
    assert launches[1] > 2 * launches[0]


def test_too_little_memory_is_an_error():
    with pytest.raises(MemoryError):
        CudaMatrix(integers(32, 40), 2, 4, CpuDevice(room=1000))


@pytest.mark.parametrize("line", range(2))
def test_a_barrier_that_is_left_out_of_the_product_shows(monkeypatch, line):
    mutant = without_a_wait("void add_tile(", "__syncthreads();", 2, line)
    library = device_on_cpu.build(mutant, list(kernels.SIGNATURES)[:-1], 2, 4)
    monkeypatch.setattr(device_on_cpu, "_library", lambda *_: library)
    values, order = integers(24, 37), np.arange(24)
    expected = load(values, 2, 4, "reference").table(order, order, order)
    matrices = [CudaMatrix(values, 2, 4, CpuDevice(reverse)) for reverse in (False, True)]
    assert not all((matrix.table(order, order, order) * matrix.scale == expected).all() for matrix in matrices)


def test_every_strategy_is_tried():
    assert {spec.split(",")[0] for spec in SPECS} == set(STRATEGIES.names())


@pytest.mark.parametrize("spec", SPECS)
def test_strategies_find_the_orders_of_the_cpu(played, monkeypatch, spec):
    monkeypatch.setattr("sparselab.permutation.optimal._MOVES", 20)
    monkeypatch.setattr("sparselab.permutation.auto.moves", lambda search: 20)
    only_fours = spec in ("stripe_groups,12", "optimal", "exhaustive")
    channels = 24 if spec == "auto" else 16
    for rows, pattern in ((21, "2:4"), (9, "2:4" if only_fours else "4:8")):
        matrix = integers(channels, rows, most=50).T
        cpu, cuda = (search_permutation(matrix, pattern, strategy=spec, seed=3, backend=b) for b in ("cpu", "cuda"))
        assert (cpu.order == cuda.order).all()
        assert cpu.retained == cuda.retained
        assert cuda.backend == "cuda"
        assert [value for _, value in cuda.history] == [value for _, value in cpu.history]
    assert played.launched


@pytest.mark.parametrize("spec", ["channel_swap", "stripe_groups", "annealed_assignment,10", "anneal,50"])
@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((4, 16)),
        np.zeros((0, 16)),
        np.tile([1.0, 1, 0, 0], (8, 4)),
        np.random.default_rng(0).random((8, 16)) * 1e30,
        np.random.default_rng(0).random((8, 16)) * 1e-200,
        np.random.default_rng(0).random((3, 4)),
    ],
    ids=["zero", "no-rows", "sparse", "huge", "minute", "one-group"],
)
def test_degenerate_matrices(played, spec, matrix):
    result = search_permutation(matrix, strategy=spec, backend="cuda")
    assert sorted(result.order) == list(range(matrix.shape[1]))
    assert result.retained >= result.baseline
    assert np.isfinite([result.efficacy, result.retained, result.ideal]).all()


def test_the_listing_of_the_authors_and_a_batch(played):
    np.random.seed(1)  # noqa: NPY002 (the convention of the listing)
    matrix = np.random.rand(128, 64)  # noqa: NPY002
    swapped, dealt = (
        search_permutations([matrix], strategy=spec, backend="cuda")[0]
        for spec in ("channel_swap,0", "stripe_groups,8,0")
    )
    assert swapped.retained == pytest.approx(2913.352, abs=0.01)
    assert dealt.retained == pytest.approx(2919.757, abs=0.01)


def test_every_kernel_has_run(played):
    matrix = load(integers(8, 5), 2, 4, "cuda")
    order = np.arange(8)
    primitives(load(integers(16, 5), 2, 4, "cuda"), np.arange(16), order, order)
    matrix.swaps(order, order).best(0.0, 0.0)
    matrix.anneal(order[None], 5, 0.0, 0.0, np.array([1]))
    matrix.assign(order[None], np.zeros(1), np.array([1]))
    assert set(played.launched) == set(kernels.SIGNATURES) - {"mask_1d"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({0: np.zeros((4, 3), np.float32)}, "values is not on the device"),
        ({0: ("float64", (4, 3))}, "values must be C-contiguous float32, got float64"),
        ({0: ("float32", (4, 3, 1))}, r"values must be \[channels, rows\], got shape \(4, 3, 1\)"),
        ({1: 4}, "rows is 4 here, and 3 in an argument before"),
        ({1: 2.5}, "rows must be an int64, got 2.5"),
        ({2: ("int32", (2, 3))}, "groups: M is 3 here, and 4"),
        ({3: ("float64", (3,))}, "out: count is 3 here, and 2"),
        ({3: None}, "not on the device"),
    ],
)
def test_launches_are_checked(spoil, message):
    device = CpuDevice()
    arguments = [device.empty((4, 3), np.float32), 3, device.empty((2, 4), np.int32), device.empty((2,), np.float64)]
    for place, value in spoil.items():
        arguments[place] = device.empty(value[1], value[0]) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=message):
        Launcher(device, 2, 4)("group_values", (2,), 128, *arguments)
    with pytest.raises(ValueError, match="takes 4 arguments, got 2"):
        Launcher(device, 2, 4)("group_values", (2,), 128, *arguments[:2])
    assert not device.launched


@pytest.mark.parametrize(("grid", "threads"), [((1, 65_536), 128), ((2**31,), 128), ((1,), 100), ((1,), 2048)])
def test_grids_are_checked(grid, threads):
    with pytest.raises(ValueError, match="no device takes a grid"):
        Launcher(CpuDevice(), 2, 4)("group_values", grid, threads)


def test_strided_arrays_are_refused():
    device = CpuDevice()
    array = device.borrow(torch.zeros(3, 4).T)
    with pytest.raises(ValueError, match="not C-contiguous"):
        Launcher(device, 2, 4)("channel_sums", (4,), 128, array, 3, device.empty((4,), np.float64))


def test_what_is_too_large_for_the_kernels():
    with pytest.raises(ValueError, match=r"up to 64 channels, not 128: backend='cpu' takes any"):
        CudaMatrix(np.ones((128, 2), np.float32), 64, 128, CpuDevice())
    with pytest.raises(ValueError, match=r"up to 4096 groups, not 4097: backend='cpu' takes any"):
        CudaMatrix(np.ones((8194, 1), np.float32), 1, 2, CpuDevice())
    matrix = CudaMatrix(np.ones((64, 2), np.float32), 1, 1, CpuDevice())
    with pytest.raises(ValueError, match="up to 32 channels, got 40"):
        matrix.best_partitions(np.arange(64), np.arange(40)[None], np.arange(40)[:, None], np.arange(40)[None])
