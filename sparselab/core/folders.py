"""Where sparselab keeps what took time to make, and where it looks for data."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: ``$SPARSELAB_CACHE``, else ``sparselab`` in the user's cache folder.

    The latter is ``$XDG_CACHE_HOME``, else ``~/.cache``.
    """
    if chosen := os.environ.get("SPARSELAB_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparselab"


def data_dir() -> Path:
    """The folder of data sets: ``$SPARSELAB_DATA``, else ``data`` in the cache folder."""
    if chosen := os.environ.get("SPARSELAB_DATA"):
        return Path(chosen).expanduser()
    return cache_dir() / "data"
