"""Every kernel compiles for the GPUs it is meant for, keeps its numbers in registers, and takes what Python says it takes."""

import ctypes
import re
from pathlib import Path

import pytest

from sparselab.ops.cuda.kernels import MODULES, SIGNATURES, module_of, signature, source
from sparselab.ops.kernel_sources import kernel_dir

C_TYPES = {
    "float": "float32",
    "double": "float64",
    "int": "int32",
    "unsigned": "uint32",
    "long long": "int64",
    "uint64": "uint64",
    "unsigned char": "uint8",
}


def nvrtc():
    """NVRTC by ctypes: compiles without a driver. Skips where the package is missing."""
    package = pytest.importorskip("nvidia", reason="needs nvidia-cuda-nvrtc")
    libraries = [file for root in package.__path__ for file in Path(root).glob("*/lib/libnvrtc.so.*")]
    if not libraries:
        pytest.skip("needs nvidia-cuda-nvrtc")
    return ctypes.CDLL(str(libraries[0]))


def compiled(text, architecture, n, m):
    """What the compiler says of each kernel: ``{kernel: log}``."""
    lib, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    options = ["--std=c++17", "--fmad=false", f"-DN={n}", f"-DM={m}", f"--gpu-architecture={architecture}"]
    options += ["-ftz=true", "--device-as-default-execution-space"]  # which CuPy adds
    options += ["--ptxas-options=-v", "-Werror=all-warnings"]
    code = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    text = log.value.decode()
    assert code == 0, text
    return {match[1]: match[0] for match in re.finditer(r"entry function '(\w+)'(?:.(?!entry function))*", text, re.S)}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("module", "n", "m"),
    [("search", 2, 4), ("search", 4, 8), ("search", 3, 3), ("mask", 2, 4), ("mask", 3, 5), ("mask", 16, 32)],
)
def test_kernels_compile_without_spills(module, architecture, n, m):
    logs = compiled(source(module), architecture, n, m)
    assert set(logs) == {kernel for kernel in SIGNATURES if module_of(kernel) == module}
    for kernel, log in logs.items():
        assert "0 bytes spill stores, 0 bytes spill loads" in log, (kernel, log)
        assert "0 bytes stack frame" in log, (kernel, log)
    for kernel in {"sum_of_maxima", "sum_of_differences"} & set(logs):
        assert int(re.search(r"Used (\d+) registers", logs[kernel])[1]) <= 128, "two blocks of 256 no longer fit"


def test_signatures_are_those_of_the_sources():
    whole = "\n".join(source(module) for module in MODULES)
    found = re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(\w+\)\s+)?(\w+)\((.*?)\) \{', whole, re.S)
    assert {kernel for kernel, _ in found} == set(SIGNATURES)
    for kernel, parameters in found:
        theirs = [re.sub(r"\bconst\b|__restrict__", "", text).split() for text in parameters.split(",")]
        types = [" ".join(words[:-1]) for words in theirs]
        ours = [("*" if parameter.shape else "", parameter.dtype.name) for parameter in signature(kernel)]
        assert [("*" * name.endswith("*"), C_TYPES[name.rstrip("*").strip()]) for name in types] == ours, kernel


def test_every_source_is_part_of_a_module():
    assert {path.stem for path in kernel_dir().glob("*.cu")} == {name for names in MODULES.values() for name in names}


def test_sources_say_what_limits_them_and_include_nothing():
    for path in kernel_dir().glob("*.cu"):
        text = path.read_text()
        assert "#include" not in text, path
        if "__global__" in text:
            for word in ("Launch:", "Memory:", "imit"):
                assert word in text, (path, word)
