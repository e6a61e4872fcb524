"""Numba, compiled without the GIL and cached in the user's cache folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba

from sparselab.paths import cache_dir

F = TypeVar("F", bound=Callable[..., object])
_log = logging.getLogger("sparselab")


def jit(function: F) -> F:
    """``function`` compiled on first use: no GIL held, no Python objects, machine code kept between processes.

    Parallelism is by threads over blocks (``sparselab.ops.threads``), never by numba's own thread pools: those abort
    when two Python threads meet in them and hang in a forked child.
    """
    return _compile(function, fastmath=False)


def jit_sums(function: F) -> F:
    """Like ``jit``, and sums of floats may be taken in any order, which is what lets them run in vector registers.

    Results are the same for every run on one machine; another machine's vectors may round the last bits differently.
    """
    return _compile(function, fastmath={"reassoc", "contract", "nsz", "nnan", "ninf"})


def _compile(function: F, fastmath: bool | set[str]) -> F:
    with _cache_in_user_folder() as writable:
        compiled = numba.njit(nogil=True, cache=writable, error_model="numpy", boundscheck=False, fastmath=fastmath)(
            function
        )
    return cast("F", compiled)


@contextmanager
def _cache_in_user_folder() -> Iterator[bool]:
    """Point numba's cache at our folder while a function is decorated; other users of numba keep their setting."""
    folder = cache_dir() / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        _log.info("compiled code is not kept: %s", error)
        writable = False
    if writable and not any(folder.iterdir()):
        _log.info("compiling numeric kernels once, into %s", folder)
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder) if writable else before
    try:
        yield writable
    finally:
        settings.CACHE_DIR = before
