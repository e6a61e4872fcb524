"""The CUDA source compiles for GPUs, and the same text run on the CPU agrees with the mask calculators."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from sparselab.masks import create_mask
from sparselab.ops.kernel_sources import kernel_source

SHIM = Path(__file__).with_name("cuda_on_cpu.h")
LAUNCHER = """
extern "C" void run(const float* scores, unsigned char* mask, long long groups, unsigned grid, unsigned block) {
  launch(grid, block, mask_1d, scores, mask, groups);
}
"""


def nvrtc():
    """NVRTC by ctypes: compiles without a driver. Skips where the package is missing."""
    package = pytest.importorskip("nvidia", reason="needs nvidia-cuda-nvrtc")
    libraries = [file for root in package.__path__ for file in Path(root).glob("*/lib/libnvrtc.so.*")]
    if not libraries:
        pytest.skip("needs nvidia-cuda-nvrtc")
    return ctypes.CDLL(str(libraries[0]))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (3, 5), (16, 32)])
def test_compiles_without_spills(architecture, n, m):
    lib = nvrtc()
    program = ctypes.c_void_p()
    assert (
        lib.nvrtcCreateProgram(ctypes.byref(program), kernel_source("mask_1d").encode(), b"mask_1d.cu", 0, None, None)
        == 0
    )
    options = [f"--gpu-architecture={architecture}", f"-DN={n}", f"-DM={m}", "--std=c++17", "--ptxas-options=-v", "-Werror=all-warnings"]  # fmt: skip
    code = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    text = log.value.decode()
    assert code == 0, text
    assert "registers" in text
    assert "0 bytes spill stores, 0 bytes spill loads" in text, text


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 5), (16, 32)])
def test_agrees_with_the_calculator(n, m, tmp_path):
    source = tmp_path / "kernel.cpp"
    source.write_text(f'#define N {n}\n#define M {m}\n#include "{SHIM}"\n{kernel_source("mask_1d")}\n{LAUNCHER}')
    library = tmp_path / "kernel.so"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", source, "-o", library], check=True
    )
    run = ctypes.CDLL(str(library)).run
    for values in (
        np.random.default_rng(0).standard_normal((37, m * 3)),
        np.random.default_rng(1).integers(-2, 3, (5, m)),
    ):
        scores = values.astype(np.float32)
        mask = np.full(scores.shape, 7, np.uint8)
        run(
            scores.ctypes.data_as(ctypes.c_void_p),
            mask.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_longlong(scores.size // m),
            3,
            8,
        )
        np.testing.assert_array_equal(mask, create_mask(torch.from_numpy(scores), f"{n}:{m}").numpy().astype(np.uint8))
