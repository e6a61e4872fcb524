"""Where the CUDA sources are: ``kernels/`` of the checkout, ``sparselab/kernels/`` of an installed wheel."""

from __future__ import annotations

from pathlib import Path


def kernel_dir() -> Path:
    """The folder of ``*.cu`` files; raises ``FileNotFoundError`` naming the places looked in."""
    package = Path(__file__).parent.parent
    places = (package / "kernels", package.parent / "kernels")
    for place in places:
        if any(place.glob("*.cu")):
            return place
    raise FileNotFoundError(f"no CUDA sources in {' or '.join(map(str, places))}: the installation is incomplete")


def kernel_source(name: str) -> str:
    """The text of ``NAME.cu``; raises ``FileNotFoundError`` listing the kernels there are.

    >>> "__global__" in kernel_source("mask_1d")
    True
    """
    folder = kernel_dir()
    file = folder / f"{name}.cu"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.cu")))
        raise FileNotFoundError(f"no kernel {name!r} in {folder}; there are {known}")
    return file.read_text(encoding="utf-8")
