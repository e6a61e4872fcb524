"""Paths that users give: a clear refusal of what is none."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any


def as_path(given: Any, taker: str) -> Path:
    """``given`` as a path; ``ValueError``, naming who takes it, for what is neither a text nor a path.

    >>> as_path("runs.sqlite", "load")
    PosixPath('runs.sqlite')
    >>> as_path(None, "load")
    Traceback (most recent call last):
        ...
    ValueError: load takes a path, a text or a pathlib.Path, got None
    """
    if not isinstance(given, (str, PathLike)):
        what = "None" if given is None else f"a {type(given).__name__}"
        raise ValueError(f"{taker} takes a path, a text or a pathlib.Path, got {what}")
    return Path(given)
