"""``CupyDevice`` says to CuPy what CuPy wants to hear: a stand-in with CuPy's signatures over numpy and the kernels' CPU build."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from sparselab.masks import create_mask
from sparselab.ops.cuda import device, masks
from sparselab.ops.cuda.kernels import module_of
from sparselab.permutation import search_permutation

from . import device_on_cpu

pytestmark = pytest.mark.skipif(not device_on_cpu.available, reason="needs g++")
FREE = 2**28


class OutOfMemoryError(Exception):
    pass


class Array(np.ndarray):
    device = types.SimpleNamespace(id=0)

    def set(self, array, stream=None):
        assert (self.shape, self.dtype) == (array.shape, array.dtype)
        assert stream is not None
        self[...] = array

    def get(self, stream=None, order="C", out=None, blocking=True):
        out = np.empty(self.shape, self.dtype) if out is None else out
        assert (self.shape, self.dtype) == (out.shape, out.dtype)
        out[...] = self
        return out


class Entered:
    """A device and a stream: both are only entered."""

    id, ptr, mem_info = 0, 0, (FREE, 2 * FREE)

    def __init__(self, number=0, non_blocking=True):
        assert number == 0
        assert non_blocking

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass

    def record(self, stream=None):
        assert stream is None

    @classmethod
    def from_external(cls, stream):
        assert stream.__cuda_stream__() == (0, 0)
        return cls()


class RawModule:
    def __init__(self, code, *, options):
        sizes = dict(option[2:].split("=") for option in options if option.startswith("-D"))
        self.n, self.m = (int(sizes.get(name, 0)) for name in "NM")
        assert "__global__" in code

    def compile(self):
        pass

    def get_function(self, name):
        library = device_on_cpu._library(module_of(name), self.n, self.m)

        def launch(grid, block, arguments):
            assert len(grid) == len(block) == 3
            assert isinstance(arguments, tuple)
            assert all(isinstance(argument, (Array, np.generic)) for argument in arguments)
            device_on_cpu.run(library, name, grid, block[0], list(arguments))

        return launch


def empty(shape, dtype):
    if np.prod(shape, dtype=float) > FREE:
        raise OutOfMemoryError
    return np.empty(shape, dtype).view(Array)


@pytest.fixture(autouse=True)
def _stands_in(monkeypatch):
    cupy = types.ModuleType("cupy")
    cupy.ndarray, cupy.empty, cupy.RawModule = Array, empty, RawModule
    cupy.from_dlpack = lambda tensor: tensor.numpy().view(Array)
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: 13_000, getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError
    )
    cupy.cuda = types.SimpleNamespace(
        Device=Entered, Stream=Entered, Event=Entered, get_elapsed_time=lambda start, end: 1e-3,
        runtime=runtime,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.version, "cuda", None)
    for cached in (device.missing, device._compiled):
        cached.cache_clear()
    yield
    for cached in (device.missing, device._compiled):
        cached.cache_clear()


@pytest.mark.parametrize("spec", ["channel_swap,2", "stripe_groups", "anneal,50", "annealed_assignment,5"])
def test_a_search(spec):
    matrix = np.random.default_rng(0).integers(0, 50, (20, 16)).astype(float)
    cpu, cuda = (search_permutation(matrix, strategy=spec, backend=name) for name in ("cpu", "cuda"))
    assert (cpu.order == cuda.order).all()
    assert cuda.backend == "cuda"


def test_a_mask_and_arrays_elsewhere():
    weight = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    here = device.own_stream()
    assert torch.equal(masks.top_n_of_m(weight, 2, 4, here), create_mask(weight, "2:4"))
    assert not here.owns(np.zeros(3))
    assert not device.CupyDevice(1, Entered()).owns(here.upload(np.zeros(3)))


def test_out_of_memory_says_how_much():
    with pytest.raises(MemoryError, match=r"GPU 0 has 256 MiB left and 8388608 MiB are needed.*backend='cpu'"):
        device.own_stream().empty((2**31, 2**10), np.float32)


def test_the_benchmark_of_a_move(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    from benchmarks import bench_gpu

    monkeypatch.setattr(bench_gpu, "REPEATS", 1)
    monkeypatch.setattr(bench_gpu, "_runs", lambda channels, backend: [("channel_swap,0", None), ("identity", None)])
    frame = bench_gpu.moves(sizes=(16,), chains=(2, 3))
    assert frame["chains"].tolist() == [2, 3]
    assert (frame["move"] > 0).all()
    assert (frame[["open_slots", "sum_of_differences", "deal_back"]] == 1).all(axis=None)
    rows = list(bench_gpu.searches([(32, 16)], ("cuda",)))
    assert [row[2:4] for row in rows] == [("cuda", "channel_swap,0"), ("cuda", "identity")]
