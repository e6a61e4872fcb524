"""What a GPU can do at most, and what kernels were measured to reach of it: ``hardware.json``, each with its source."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from sparselab.core.registry import unknown_name

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp8": "float8", "half": "float16"}
"""Other names of the precisions that GPUs are forecast in."""

BYTES = {"float16": 2, "bfloat16": 2, "int8": 1, "float8": 1}
"""Of one number that a matrix product reads; what it writes has two."""


@dataclass(frozen=True)
class Hardware:
    """The peaks of a GPU: ``dense`` and ``sparse`` rates by dtype and ``vector``, all in TFLOPS; ``bandwidth`` in GB/s.

    ``vector`` is the rate of float32 outside the tensor cores. ``source`` says where all this is
    written. A GPU of your own is an object of this class.

    >>> gpu = hardware("h100")
    >>> gpu.dense["float16"], gpu.sparse["float16"], gpu.bandwidth
    (989.4, 1978.9, 3350)
    """

    name: str
    multiprocessors: int
    bandwidth: float
    vector: float
    dense: Mapping[str, float]
    sparse: Mapping[str, float]
    source: str

    @property
    def precisions(self) -> list[str]:
        """Those that ``dense`` and ``sparse`` both have a rate for."""
        return [name for name in self.sparse if name in self.dense]

    def precision(self, dtype: str) -> str:
        """The name by which ``dense`` and ``sparse`` have ``dtype``; ``ValueError`` where they have none."""
        name = DTYPES.get(str(dtype).removeprefix("torch."), str(dtype).removeprefix("torch."))
        name = "float8" if name.startswith("float8") else name
        if name not in self.precisions:
            raise ValueError(
                f"{self.name} has no sparse rate for dtype={dtype!r}; there are {', '.join(self.precisions)}: "
                "half precision is what most networks run in"
            )
        return name


@dataclass(frozen=True)
class Attained:
    """What kernels reach of the peaks, from the least to the most: shares of rate and bandwidth.

    ``sparse`` is what a sparse kernel reaches of its own peak over what the dense one does.
    ``tile`` is the side of the block of outputs x tokens that one multiprocessor makes, ``host_us``
    what a sparse call takes longer on the host where nothing of it is kept, in microseconds.
    """

    compute: tuple[float, float]
    memory: tuple[float, float]
    sparse: tuple[float, float]
    tile: int
    host_us: float


def hardware(name: str | Hardware) -> Hardware:
    """The GPU called ``name`` (``"a100"``, ``"h100"``, ...; ``hardware_names()`` has all).

    Raises ``ValueError`` for a name that is not known.
    """
    if isinstance(name, Hardware):
        return name
    gpus = _facts()["gpus"]
    if not isinstance(name, str) or name.lower() not in gpus:
        raise unknown_name("hardware", str(name), gpus)
    return Hardware(**gpus[name.lower()])


def hardware_names() -> list[str]:
    """The names that ``hardware`` knows."""
    return list(_facts()["gpus"])


def attained() -> Attained:
    """What kernels were measured to reach."""
    facts = _facts()["attained"]
    spans = {name: (float(facts[name][0]), float(facts[name][1])) for name in ("compute", "memory", "sparse")}
    return Attained(**spans, tile=facts["tile"], host_us=facts["host_us"])


@functools.cache
def _facts() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("sparselab.deploy").joinpath("hardware.json").read_text())
    return content
