"""Paired timings: both sides in turn, medians, and the ratio pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(ours: Callable[[], object], peer: Callable[[], object], pairs: int = 7) -> tuple[float, float, float]:
    """Median seconds of ours and of the peer, and the median over pairs of peer / ours; one warm-up each."""
    ours(), peer()
    both = [(seconds(ours), seconds(peer)) for _ in range(pairs)]
    return (
        statistics.median(a for a, _ in both),
        statistics.median(b for _, b in both),
        statistics.median(b / a for a, b in both),
    )
