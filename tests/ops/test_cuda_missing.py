"""Without a GPU, every way to ask for one says what is missing; nothing else notices."""

import logging
import sys
import types

import numpy as np
import pytest

from sparselab.ops import backends
from sparselab.ops.cuda import device
from sparselab.permutation import search_permutation


class Status(RuntimeError):
    pass


def cupy(driver=13_000, devices=1, compiled=None):
    """As much of CuPy as is asked when looking whether it can be used."""

    def say(answer):
        def function():
            if isinstance(answer, Exception):
                raise answer
            return answer

        return function

    module = types.ModuleType("cupy")
    runtime = types.SimpleNamespace(driverGetVersion=say(driver), getDeviceCount=say(devices), CUDARuntimeError=Status)
    module.cuda = types.SimpleNamespace(runtime=runtime)
    module.RawModule = lambda code, options: types.SimpleNamespace(compile=say(compiled))
    return module


@pytest.fixture(autouse=True)
def _asked_anew():
    device.missing.cache_clear()
    yield
    device.missing.cache_clear()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, r"CuPy is not installed: pip install \"sparselab\[gpu\]\""),
        (cupy(driver=0), "no NVIDIA driver"),
        (cupy(12_020, Status("cudaErrorInsufficientDriver: too old")), r"for CUDA 12\.2, older than CuPy's"),
        (cupy(devices=Status("cudaErrorNoDevice: none")), "offers no GPU: cudaErrorNoDevice"),
        (cupy(devices=0), "offers no GPU: look at CUDA_VISIBLE_DEVICES"),
        (cupy(compiled=OSError("libnvrtc.so.13: cannot open")), r"NVRTC.*pip install.*libnvrtc"),
        (cupy(compiled=RuntimeError("Failed to find CUDA headers")), r"NVRTC.*pip install.*CUDA headers"),
        (cupy(), None),
    ],
)
def test_each_missing_piece_has_its_own_message(monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, "cupy", module)  # None makes the import fail as if it were not installed
    if message is None:
        assert device.missing() is None
        assert backends.resolve("cuda") == "cuda"
        return
    with pytest.raises(ValueError, match=message):
        device.own_stream()
    with pytest.raises(
        ValueError, match=rf"backend 'cuda' cannot be used here: .*{message}.*valid here: auto, cpu, ref"
    ):
        search_permutation(np.ones((2, 8)), backend="cuda")


def test_auto_takes_a_gpu_for_large_problems_only_and_says_so(monkeypatch, caplog):
    small, large, beyond = (backends.Size(*size) for size in ((64, 64, 4), (2048, 2048, 4), (2048, 2048, 128)))
    with caplog.at_level(logging.INFO, "sparselab"):
        monkeypatch.setattr(device, "missing", lambda: None)
        assert [backends.resolve("auto", size) for size in (small, large, beyond)] == ["cpu", "cuda", "cpu"]
        monkeypatch.setattr(device, "missing", lambda: "CuPy is not installed")
        assert backends.resolve("auto", large) == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "backend auto: cpu (a small problem)",
        "backend auto: cuda",
        "backend auto: cpu (the CUDA kernels take groups of up to 64 channels, not 128)",
        "backend auto: cpu (CuPy is not installed)",
    ]


def test_small_problems_do_not_even_look(monkeypatch):
    monkeypatch.setattr(device, "missing", lambda: pytest.fail("asked for a GPU"))
    assert search_permutation(np.ones((2, 8))).backend == "cpu"
