"""Long work in a thread: watched from the notebook's event loop, and stopped by asking."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
from collections.abc import Callable

Refresh = Callable[[], None]


class Stopped(KeyboardInterrupt):
    """Raised inside the work when it is asked to stop: whatever lets Ctrl-C end it in good order ends it here too."""


class Job:
    """``work(job)`` in a thread, while ``refresh()`` is called now and then on the thread that started it.

    The work writes what it finds where ``refresh`` reads it, and calls ``job.check()`` often, which raises ``Stopped``
    once ``stop`` was called. In a notebook ``refresh`` runs from the event loop every ``interval`` seconds and once at the
    end; nothing else in the notebook waits. Without an event loop ``wait`` makes the last call.
    """

    def __init__(self, work: Callable[[Job], object], refresh: Refresh, interval: float = 0.25) -> None:
        self.error: Exception | None = None
        self._work, self._refresh, self._interval = work, refresh, interval
        self._stop, self._finished = threading.Event(), False
        self._began = self._ended = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="sparselab-job", daemon=True)

    def start(self) -> Job:
        """Begin; returns at once."""
        self._began = time.perf_counter()
        atexit.register(self._end_with_python)
        self._thread.start()
        with contextlib.suppress(RuntimeError):  # no event loop: whoever started this waits
            asyncio.get_running_loop().call_later(self._interval, self._tick)
        return self

    @property
    def running(self) -> bool:
        """Whether the work goes on."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    @property
    def seconds(self) -> float:
        """For how long it has run."""
        return (time.perf_counter() if self.running else self._ended) - self._began

    def check(self) -> None:
        """Called by the work, often: raises ``Stopped`` when it should end."""
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """Ask the work to end; it does at its next ``check``."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the work has ended, then ``refresh``. Raises ``TimeoutError`` when it goes on for longer."""
        self._thread.join(timeout)
        if self.running:
            raise TimeoutError(f"the work still runs after {timeout} s; stop() ends it")
        self._finish()

    def _end_with_python(self) -> None:
        """A thread inside torch when the interpreter is torn down would abort the process."""
        self.stop()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            self._work(self)
        except Stopped:
            pass
        except Exception as error:  # shown by the widget, in words
            self.error = error
        finally:
            self._ended = time.perf_counter()
            atexit.unregister(self._end_with_python)

    def _tick(self) -> None:
        if self.running:
            self._refresh()
            asyncio.get_running_loop().call_later(self._interval, self._tick)
        else:
            self._finish()

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._refresh()
