"""Numba, compiled without the GIL and cached in the user's cache folder."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from sparselab.core.folders import cache_dir

F = TypeVar("F", bound=Callable[..., object])
_KEPT_SECONDS = 30 * 24 * 3600.0
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


@cache
def _version() -> str:
    """A digest of the sources that are compiled.

    Numba looks whether the file of a function has changed, not those of the functions it calls, which are part of its
    machine code; after an update of some files that would be the old one.
    """
    digest = sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _forget_old(folder: Path) -> None:
    """Remove what other versions left beside ``folder`` and compiled nothing into for a month."""
    for other in folder.parent.iterdir():
        if other.is_dir() and time.time() - other.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _cache_in_user_folder() -> Iterator[bool]:
    """Point numba's cache at our folder while a function is decorated; other users of numba keep their setting."""
    folder = cache_dir() / "numba" / _version()
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)  # another process may be as early
        if is_new:
            _forget_old(folder)
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
