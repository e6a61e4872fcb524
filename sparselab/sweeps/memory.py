"""The peak memory of one trial: of the process, and of the CUDA device once one is in use."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def cuda_in_use() -> bool:
    """Whether this process has touched a CUDA device; asking does not."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def reset_peak_memory() -> None:
    """Start counting anew, where the system can (Linux, CUDA); elsewhere the peak is that of the process so far."""
    if sys.platform == "linux":
        with suppress(OSError):  # some containers forbid it
            _RESET.write_text("5")
    if cuda_in_use():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> dict[str, float]:
    """``peak_memory_mb`` and, with CUDA in use, ``peak_device_memory_mb``, where they are known.

    ``peak_memory_mb`` is resident memory, in 10^6 bytes.
    """
    peaks = {}
    if (resident := _resident_peak()) is not None:
        peaks["peak_memory_mb"] = resident / 1e6
    if cuda_in_use():
        peaks["peak_device_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return peaks


def _resident_peak() -> int | None:
    if _STATUS.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())):
        return int(match[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
