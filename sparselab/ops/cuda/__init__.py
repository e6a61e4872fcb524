"""The primitives on an NVIDIA GPU: CUDA sources from ``kernels/``, compiled and launched by CuPy.

``device`` is the only module that imports CuPy, and only when it is asked for. Everything else sees
a ``Device``, so the tests run all of it, kernels included, on a CPU.
"""

from __future__ import annotations

from sparselab.ops.matrix import Floats, LoadedMatrix


def load(values: Floats, n: int, m: int) -> LoadedMatrix:
    """Load ``values``, ``(channels, rows)``, on the current GPU, with a stream of its own.

    The scores are copied there once, as float32.

    Raises ``ValueError`` for groups larger than the kernels take, and ``MemoryError`` where the scores do not fit.
    """
    from sparselab.ops.cuda.device import own_stream
    from sparselab.ops.cuda.matrix import CudaMatrix

    return CudaMatrix(values, n, m, own_stream())


def missing() -> str | None:
    """What keeps a GPU from being used here, and the way out; ``None`` where nothing does."""
    from sparselab.ops.cuda import device

    return device.missing()
