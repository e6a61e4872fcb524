"""Which backend loads a matrix: the names there are, which of them can be used here, and what ``"auto"`` stands for."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass

from sparselab.core.registry import unknown_name
from sparselab.ops.matrix import Floats, LoadedMatrix

BACKENDS = ("cpu", "cuda", "reference")
_WORTH_A_GPU = 2**29  # rows * channels^2 from which "auto" takes one: some 800 x 800, an estimate (docs/performance.md)
_log = logging.getLogger("sparselab")


@dataclass(frozen=True)
class Size:
    """How large a problem is: its scores, and a group."""

    rows: int
    channels: int
    m: int


def load(values: Floats, n: int, m: int, backend: str = "auto") -> LoadedMatrix:
    """``values``, non-negative and finite, ``(channels, rows)``, channels first, where ``backend`` computes.

    ``backend`` is one that ``resolve`` takes. Raises ``ValueError`` for another name.
    """
    return load_on(resolve(backend, Size(values.shape[1], values.shape[0], m)), values, n, m)


def load_on(backend: str, values: Floats, n: int, m: int) -> LoadedMatrix:
    """``load`` on a backend that is known to be usable here: one that ``resolve`` returned."""
    module = importlib.import_module(f"sparselab.ops.{backend}")
    matrix: LoadedMatrix = module.load(values, n, m)
    return matrix


def resolve(backend: str, size: Size | None = None) -> str:
    """The backend that ``backend`` stands for, for a problem of ``size``; ``None`` for a large one.

    ``"cpu"`` (numba), ``"cuda"`` (CuPy), ``"reference"`` (numpy, slow and obvious) or ``"auto"``:
    ``"cuda"`` where there is a GPU to use and the problem is large enough to gain, and not beyond
    what the kernels take, else ``"cpu"``; it logs which. Raises ``ValueError`` as ``check_backend``
    does.
    """
    if backend != "auto":
        check_backend(backend)
        return backend
    reason = None if size is None else _better_on_a_cpu(size)
    reason = reason or _cuda_missing()
    _log.info("backend auto: %s", "cuda" if reason is None else f"cpu ({reason})")
    return "cuda" if reason is None else "cpu"


def check_backend(backend: str) -> None:
    """Raise ``ValueError`` for a name that is no backend, listing those there are, and for ``"cuda"`` where it cannot
    be used, saying what is missing.
    """
    if backend not in ("auto", *BACKENDS):
        raise unknown_name("backend", backend, ("auto", *BACKENDS))
    if backend == "cuda" and (reason := _cuda_missing()) is not None:
        raise ValueError(f"backend 'cuda' cannot be used here: {reason}; valid here: auto, cpu, reference")


def _better_on_a_cpu(size: Size) -> str | None:
    from sparselab.ops.cuda.kernels import too_large

    if size.rows * size.channels**2 < _WORTH_A_GPU:
        return "a small problem"
    return too_large(size.channels, size.m)


def _cuda_missing() -> str | None:
    from sparselab.ops import cuda

    return cuda.missing()
