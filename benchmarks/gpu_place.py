"""Where the parts of ``benchmarks.on_gpu`` run: a GPU, or a CPU that stands in for one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from unittest.mock import patch

import torch

from sparselab.ops import cuda
from sparselab.ops.cuda import device

STAND_IN = Path(__file__).parents[1] / "tests" / "kernels" / "device_on_cpu.py"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """A GPU, or, ``simulated``, a CPU that runs the kernels' text in its place."""

    simulated: bool = False

    @property
    def torch_device(self) -> torch.device:
        """Where tensors are."""
        return torch.device("cpu" if self.simulated else "cuda")

    def size(self, real: Value, small: Value) -> Value:
        """``real`` on a GPU; what a CPU does in a second where it stands in."""
        return small if self.simulated else real

    @contextmanager
    def ready(self) -> Iterator[None]:
        """While it lasts, ``backend="cuda"`` can be used. Raises ``SystemExit`` saying what is missing."""
        if not self.simulated:
            reason = cuda.missing()
            if reason is not None:
                raise SystemExit(f"there is no GPU to use: {reason} (--simulated tries the command without one)")
            yield
            return
        stand_in = _stand_in().CpuDevice
        with (
            patch.object(device, "own_stream", stand_in),
            patch.object(device, "device_of", lambda _: stand_in()),
            patch.object(device, "missing", lambda: None),
        ):
            yield


def _stand_in() -> ModuleType:
    """The tests' module, which is in no package."""
    spec = importlib.util.spec_from_file_location("device_on_cpu", STAND_IN)
    if spec is None or spec.loader is None:
        raise SystemExit(f"the stand-in for a GPU is missing: {STAND_IN}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
