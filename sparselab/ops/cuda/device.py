"""CuPy: is there a GPU; its memory and streams, compiled kernels, torch tensors without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparselab.ops.cuda.kernels import Launch, source

_PROBE = 'extern "C" __global__ void nothing() {}'


@cache
def missing() -> str | None:
    """What keeps a GPU from being used here: CuPy, the driver, a device, or NVRTC; ``None`` where nothing does."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return (
                'CuPy is not installed: pip install "sparselab[gpu]" for CUDA 13, "sparselab[gpu-cuda12]" for CUDA 12'
            )
        return f"CuPy cannot be imported: {error}"
    except Exception as error:  # a broken installation raises whatever it raises
        return f"CuPy cannot be imported: {type(error).__name__}: {error}"
    driver = cupy.cuda.runtime.driverGetVersion()
    if driver == 0:
        return "there is no NVIDIA driver: install one, and in a container pass the GPU through (docker run --gpus all)"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if "InsufficientDriver" in str(error):
            return (
                f"the NVIDIA driver is for CUDA {_version(driver)}, older than CuPy's: update the driver, or take "
                '"sparselab[gpu-cuda12]"'
            )
        return f"the NVIDIA driver (CUDA {_version(driver)}) offers no GPU: {error}"
    if not count:
        return f"the NVIDIA driver (CUDA {_version(driver)}) offers no GPU: look at CUDA_VISIBLE_DEVICES and nvidia-smi"
    try:
        cupy.RawModule(code=_PROBE, options=("--std=c++17",)).compile()
    except Exception as error:  # OSError, ImportError, RuntimeError or CuPy's own: no NVRTC, no headers, by version
        return f'NVRTC cannot compile the kernels: pip install "cupy-cuda13x[ctk]" ({error})'
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def own_stream() -> CupyDevice:
    """The GPU that torch (or, where torch has no CUDA, CuPy) has current, on a new stream: what runs on others goes on.

    Raises ``ValueError`` saying what is missing.
    """
    reason = missing()
    if reason is not None:
        raise ValueError(f"CUDA cannot be used here: {reason}")
    import cupy

    with_torch = torch.version.cuda is not None and torch.cuda.is_available()
    number = torch.cuda.current_device() if with_torch else cupy.cuda.Device().id
    with cupy.cuda.Device(number):
        return CupyDevice(number, cupy.cuda.Stream(non_blocking=True))


def device_of(tensor: torch.Tensor) -> CupyDevice:
    """The GPU of a CUDA tensor, on the stream that torch has current there."""
    import cupy

    number = tensor.get_device()
    current = torch.cuda.current_stream(number).cuda_stream
    return CupyDevice(number, cupy.cuda.Stream.from_external(_Stream(current)))


@dataclass(frozen=True)
class _Stream:
    """A stream that is not CuPy's, by the protocol with which CuPy takes it."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        """A version, and the handle."""
        return 0, self.handle


@cache
def _compiled(number: int, module: str, n: int, m: int) -> Any:
    """The compiled module.

    CuPy keeps its binary on disk, by a hash of this one text, its options and the architecture.
    """
    import cupy

    # No contraction to fused multiply-adds: the last bit of a temperature is then the CPU's.
    options = ("--std=c++17", "--fmad=false", f"-DN={n}", f"-DM={m}")
    with cupy.cuda.Device(number):
        compiled = cupy.RawModule(code=source(module), options=options)
        compiled.compile()
    return compiled


@dataclass(frozen=True)
class CupyDevice:
    """One GPU and one of its streams, CuPy's. Every call names both, so threads may share it."""

    number: int
    stream: Any

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """See ``Device``."""
        import cupy

        try:
            with self._current():
                return cupy.empty(shape, dtype)
        except cupy.cuda.memory.OutOfMemoryError as error:
            wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raise MemoryError(
                f"GPU {self.number} has {self.room() / 2**20:.0f} MiB left and {wanted / 2**20:.0f} MiB are needed at "
                "once: free what else is on it, search a sample of the rows, or take backend='cpu'"
            ) from error

    def upload(self, array: NDArray[Any]) -> Any:
        """See ``Device``."""
        there = self.empty(array.shape, array.dtype)
        with self._current():
            there.set(np.ascontiguousarray(array), stream=self.stream)
        return there

    def download(self, array: Any) -> NDArray[Any]:
        """See ``Device``."""
        with self._current():
            host: NDArray[Any] = array.get(stream=self.stream)
            self.stream.synchronize()
        return host

    def borrow(self, tensor: torch.Tensor) -> Any:
        """``tensor``'s memory as an array here, by DLPack, without a copy; both work on the same stream."""
        import cupy

        with self._current():
            return cupy.from_dlpack(tensor)

    def owns(self, array: Any) -> bool:
        """See ``Device``."""
        import cupy

        return isinstance(array, cupy.ndarray) and array.device.id == self.number

    def room(self) -> int:
        """See ``Device``: what the driver has free, and what CuPy's pool holds without using it."""
        import cupy

        with cupy.cuda.Device(self.number) as device:
            return int(device.mem_info[0] + cupy.get_default_memory_pool().free_bytes())

    def kernel(
        self,
        module: str,
        kernel: str,
        n: int,
        m: int,
        grid: tuple[int, int, int],
        threads: int,
        arguments: Sequence[Any],
    ) -> Launch:
        """See ``Device``."""
        function = _compiled(self.number, module, n, m).get_function(kernel)
        return partial(function, grid, (threads, 1, 1), tuple(arguments))

    def run(self, launches: Sequence[Launch], times: int = 1) -> None:
        """See ``Device``."""
        with self._current():
            for _ in range(times):
                for launch in launches:
                    launch()

    @contextmanager
    def _current(self) -> Iterator[None]:
        import cupy

        with cupy.cuda.Device(self.number), self.stream:
            yield
