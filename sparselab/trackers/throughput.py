"""How fast the run is."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from sparselab.trackers.tracker import Tracker


class ThroughputTracker(Tracker):
    """Wall-clock speed since the last row: columns ``seconds`` since attached, ``steps_per_second``.

    A resumed run counts the seconds that it took, not those while it stood still. On a GPU, steps
    are queued: choose ``every`` large enough that the queue does not matter.
    """

    columns = ("seconds", "steps_per_second")

    def __init__(self, every: int | Collection[int] = 100) -> None:
        super().__init__(every)
        self._start = self._last = time.perf_counter()
        self._counted = 0

    def attach(self, optimizer: Optimizer) -> None:
        """Watch; the clock starts."""
        super().attach(optimizer)
        self._start = self._last = time.perf_counter()
        self._counted = self.step

    def state_dict(self) -> dict[str, Any]:
        """With the seconds so far."""
        return {**super().state_dict(), "seconds": time.perf_counter() - self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``: the clock starts again, at the seconds that had passed."""
        super().load_state_dict(state)
        self._last = time.perf_counter()
        self._start, self._counted = self._last - state["seconds"], self.step

    def __getstate__(self) -> dict[str, Any]:
        now = time.perf_counter()  # another process has another clock
        return {**self.__dict__, "_start": self._start - now, "_last": self._last - now}

    def __setstate__(self, state: dict[str, Any]) -> None:
        now = time.perf_counter()
        self.__dict__.update(state, _start=state["_start"] + now, _last=state["_last"] + now)

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """One row."""
        now = time.perf_counter()
        yield {
            "seconds": now - self._start,
            "steps_per_second": (self.step - self._counted) / max(now - self._last, 1e-9),
        }
        self._last, self._counted = now, self.step
