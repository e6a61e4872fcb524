"""A sweep that runs while its caller goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from sparselab.sweeps.executors import Stopping


class RunningSweep:
    """A sweep in the background: ``experiment(..., background=True)``.

    ``frame`` has the trials that are done so far, as ``experiment`` would hand them back; ``store``
    is the file that they are in, which ``SweepExplorer`` shows live. ``wait()`` waits for the end and
    returns the whole frame, ``stop()`` ends the sweep once the trials under way are done. An error
    of the sweep itself (of a pool that broke) is raised by ``wait``; a trial that fails is a row.
    """

    def __init__(self, run: Callable[[Stopping], bool], frame: Callable[[bool], pd.DataFrame], store: Path) -> None:
        self.store = store
        self._read = frame
        self._stop = threading.Event()
        self._interrupted = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._go, args=(run,), name="sparselab-sweep", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether trials are still to come."""
        return self._thread.is_alive()

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each trial that is done; read anew each time."""
        return self._read(self._interrupted)

    def stop(self) -> None:
        """Begin no further trial. Those under way are finished and kept."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> pd.DataFrame:
        """The frame once the sweep has ended. Raises ``TimeoutError`` when that takes more than ``timeout`` seconds."""
        self._thread.join(timeout)
        if self.running:
            raise TimeoutError(f"the sweep still runs after {timeout} s; frame has what is done, stop() ends it")
        if self._error is not None:
            raise self._error
        return self.frame

    def __repr__(self) -> str:
        frame = self.frame
        state = "running" if self.running else "stopped" if self._interrupted else "done"
        return f"<RunningSweep: {len(frame)} of {frame.attrs['trials']} trials, {state}, in {self.store}>"

    def _go(self, run: Callable[[Stopping], bool]) -> None:
        try:
            self._interrupted = run(self._stop.is_set)
        except BaseException as error:
            self._error = error
