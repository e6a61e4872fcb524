"""How much memory there is for statistics."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> int | None:
    """What is free on ``device`` now, in bytes; ``None`` where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and _MEMINFO.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", _MEMINFO.read_text())
        return int(found[1]) * 1024 if found else None
    return None


def as_text(size: float) -> str:
    """``size`` bytes to be read.

    >>> as_text(64), as_text(3 * 2**30)
    ('64 B', '3.0 GiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log(max(size, 1), 1024)), len(units) - 1)
    return f"{size / 1024**power:.{1 if power else 0}f} {units[power]}"
