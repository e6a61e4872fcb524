"""A ``Device`` that is a CPU: the kernels' own text compiled by g++ behind ``cuda_on_cpu.h``, numpy arrays as its memory."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from sparselab.ops.cuda.kernels import SIGNATURES, module_of, source

SHIM = Path(__file__).with_name("cuda_on_cpu.h")
OUTCOMES = {
    2: "stuck: some threads wait for others that never come",
    3: "out of time",
    4: "no device takes this grid",
}
GUARD = 64  # bytes of no meaning on both sides of every array
POISON = 0x7F

available = shutil.which("g++") is not None


def build(text, kernels, n, m):
    """The kernels of ``text``, compiled for the CPU; the binary is kept for the session by what it is made of."""
    exports = "\n".join(f"EXPORT({kernel})" for kernel in kernels)
    whole = f'#define N {n}\n#define M {m}\n#include "{SHIM}"\n{text}\n{exports}\n'
    key = hashlib.sha256((whole + SHIM.read_text()).encode()).hexdigest()[:16]
    library = _folder() / f"{key}.so"
    if not library.exists():
        file = library.with_suffix(".cpp")
        file.write_text(whole)
        flags = [
            "-std=c++17",
            "-O1",
            "-shared",
            "-fPIC",
            "-fno-gnu-unique",
            "-U_FORTIFY_SOURCE",
            "-Wno-unknown-pragmas",
        ]
        subprocess.run(["g++", *flags, file, "-o", library], check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(library))


@functools.cache
def _folder():
    folder = tempfile.TemporaryDirectory(prefix="sparselab-kernels-")
    _folder.keep = folder  # removed when the session ends
    return Path(folder.name)


@functools.cache
def _library(module, n, m):
    return build(source(module), [name for name in SIGNATURES if module_of(name) == module], n, m)


def run(library, kernel, grid, threads, arguments, reverse=False, seconds=60.0):
    """Launch; raises ``RuntimeError`` where the threads do not all come to an end."""
    pointers = (ctypes.c_void_p * len(arguments))()
    kept = []
    for k, argument in enumerate(arguments):
        cell = ctypes.c_void_p(argument.ctypes.data) if isinstance(argument, np.ndarray) else np.array(argument)
        kept.append(cell)
        pointers[k] = ctypes.addressof(cell) if isinstance(argument, np.ndarray) else cell.ctypes.data
    shape = (ctypes.c_uint * 3)(*(*grid, 1, 1)[:3])
    block = (ctypes.c_uint * 3)(threads, 1, 1)
    outcome = getattr(library, f"run_{kernel}")(shape, block, int(reverse), ctypes.c_double(seconds), pointers)
    if outcome != 1:
        raise RuntimeError(f"kernel {kernel}: {OUTCOMES[outcome]}")


class CpuDevice:
    """Arrays are poisoned before use and guarded on both sides; ``reverse`` runs every launch's threads backwards."""

    def __init__(self, reverse=False, room=2**28):
        self.reverse, self._room = reverse, room
        self._guards = {}
        self.launched = []

    def empty(self, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > self._room:
            raise MemoryError(f"{size} bytes are more than the {self._room} there are")
        raw = np.full(size + 2 * GUARD, POISON, np.uint8)
        start = GUARD + -(raw.ctypes.data + GUARD) % 16
        array = np.frombuffer(raw, np.uint8, size, start if size else 0).view(dtype).reshape(shape)
        self._guards[id(array)] = (array, raw, start, size)
        return array

    def upload(self, array):
        there = self.empty(array.shape, array.dtype)
        there[...] = array
        return there

    def download(self, array):
        return array.copy()

    def borrow(self, tensor):
        array = tensor.numpy()
        self._guards[id(array)] = (array, np.zeros(0, np.uint8), 0, 0)
        return array

    def owns(self, array):
        return id(array) in self._guards

    def room(self):
        return self._room

    def kernel(self, module, kernel, n, m, grid, threads, arguments):
        library = _library(module, n, m)

        def launch():
            self.launched.append(kernel)
            run(library, kernel, grid, threads, arguments, self.reverse)
            for argument in arguments:
                if isinstance(argument, np.ndarray):
                    _, raw, start, size = self._guards[id(argument)]
                    assert (raw[:start] == POISON).all(), f"kernel {kernel} wrote before an array"
                    assert (raw[start + size :] == POISON).all(), f"kernel {kernel} wrote behind an array"

        return launch

    def run(self, launches, times=1):
        for _ in range(times):
            for launch in launches:
                launch()
