"""What is installed, which backends work, and why not: ``sparselab doctor``."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import os
import platform
import sqlite3
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sparselab.core.folders import cache_dir, data_dir

# Import name -> what pip calls it, by the extra that brings it; "" is what sparselab cannot do without.
PACKAGES = {
    "": {
        **{name: name for name in ("torch", "numpy", "scipy", "numba", "pandas", "matplotlib", "tqdm", "cloudpickle")},
        "PIL": "pillow",
    },
    "lab": {"jupyterlab": "jupyterlab", "ipywidgets": "ipywidgets"},
    "zoo": {
        "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
        "transformers": "transformers",
        "sklearn": "scikit-learn",
        "pyarrow": "pyarrow",
    },
    "dask": {"distributed": "distributed", "loky": "loky"},
    "gpu": {"cupy": "cupy-cuda13x"},
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``state`` is ``ok``, ``missing`` (an option that is not there) or ``broken``."""

    what: str
    state: str
    detail: str


def report(options: Namespace) -> int:
    """Say what works here; 1 when something is broken, what is merely missing does not count."""
    findings = list(examine())
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            print(f"{finding.state:<8} {finding.what:<{width}}  {finding.detail}")
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """Look at everything, one after the other; nothing that is wrong raises."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    for extra, packages in PACKAGES.items():
        for module, package in packages.items():
            yield _package(module, package, extra)
    yield from _plugins()
    yield _tried("backend cpu", lambda: _agrees("cpu"))
    yield _cuda()
    yield _backend_cuda()
    yield _tried("cache folder", lambda: _writable(cache_dir()))
    yield _tried("store (SQLite)", _wal)
    found = sorted(path.name for path in data_dir().glob("*") if path.is_dir()) if data_dir().is_dir() else []
    state = "ok" if found else "missing"
    yield Finding("data folder", state, f"{data_dir()}: {', '.join(found) or 'no data sets; set SPARSELAB_DATA'}")


def _package(module: str, package: str, extra: str) -> Finding:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            return Finding(package, "broken", f"cannot be imported: {error}")
        advice = f'pip install "sparselab[{extra}]"' if extra else f"pip install {package}"
        return Finding(package, "missing" if extra else "broken", f"not installed: {advice}")
    except Exception as error:
        return Finding(package, "broken", f"cannot be imported: {type(error).__name__}: {error}")
    return Finding(package, "ok", _version(module, package))


def _version(module: str, package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules[module], "__version__", "installed"))


def _plugins() -> Iterator[Finding]:
    """Every name that an installed package adds, imported."""
    for package in importlib.metadata.distributions():
        for point in package.entry_points.select():
            if point.group.startswith("sparselab."):
                yield _tried(f"plug-in {point.group}", functools.partial(_loaded, point))


def _loaded(point: importlib.metadata.EntryPoint) -> str:
    point.load()
    return f"{point.name} ({point.value})"


def _tried(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", attempt())
    except Exception as error:
        return Finding(what, "broken", f"{type(error).__name__}: {error}")


def _agrees(backend: str) -> str:
    """A small search, compiled and in plain numpy, must find the same order."""
    import numpy as np

    from sparselab.permutation import search_permutation

    matrix = np.random.default_rng(0).integers(0, 100, (8, 16)).astype(np.float32)
    results = [search_permutation(matrix, strategy="channel_swap", backend=name) for name in (backend, "reference")]
    if not np.array_equal(results[0].order, results[1].order):
        raise RuntimeError("the compiled search and the reference disagree; empty the cache folder and try again")
    return "a search agrees with the reference"


def _cuda() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding("cuda", "missing", f"torch cannot be imported: {error}")
    if torch.version.cuda is None:
        return Finding("cuda", "missing", "this torch is built without CUDA")
    if not torch.cuda.is_available():
        return Finding("cuda", "missing", f"torch has CUDA {torch.version.cuda}, but sees no device or driver")
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Finding("cuda", "ok", f"CUDA {torch.version.cuda}: {names}")


def _backend_cuda() -> Finding:
    from sparselab.ops import cuda

    reason = cuda.missing()
    if reason is not None:
        return Finding("backend cuda", "missing", reason)
    return _tried("backend cuda", lambda: _agrees("cuda"))


def _writable(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return str(folder)


def _wal() -> str:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "probe.sqlite")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.close()
    if mode != "wal":
        raise RuntimeError(f"SQLite {sqlite3.sqlite_version} cannot write ahead here (mode {mode})")
    return f"SQLite {sqlite3.sqlite_version}, write-ahead log"
