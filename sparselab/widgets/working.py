"""A panel whose work runs in a thread: started, watched, stopped, its errors shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets

from sparselab.widgets.job import Job
from sparselab.widgets.panel import Panel, in_words


class WorkingPanel(Panel):
    """Does one piece of work at a time. ``starters`` are the buttons that cannot be pressed meanwhile, ``stopper`` the one
    that can only be pressed then."""

    def __init__(
        self,
        children: Sequence[ipywidgets.Widget],
        *,
        starters: Sequence[ipywidgets.Button],
        stopper: ipywidgets.Button,
    ) -> None:
        self._job: Job | None = None
        self._starters, self._stopper = starters, stopper
        super().__init__(children)
        self._set_buttons()

    @property
    def running(self) -> bool:
        """Whether work goes on."""
        return self._job is not None and self._job.running

    def stop(self) -> None:
        """End what runs, keeping what was found so far."""
        if self._job is not None:
            self._job.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until what runs has ended. Raises ``TimeoutError`` after ``timeout`` seconds."""
        if self._job is not None:
            self._job.wait(timeout)

    def _require_idle(self) -> None:
        if self.running:
            raise ValueError("this widget is at work: stop it first")

    def _start(self, work: Callable[[Job], object], show: Callable[[Job], None], interval: float = 0.25) -> None:
        """Do ``work`` in a thread; ``show`` is called while it goes on and once after its end."""

        def refresh() -> None:
            with self.problems_shown():
                show(job)
            self._set_buttons()
            if not job.running and job.error is not None:
                self.problem = in_words(job.error)

        job = self._job = Job(work, refresh, interval)
        job.start()
        refresh()

    def _set_buttons(self) -> None:
        for button in self._starters:
            button.disabled = self.running
        self._stopper.disabled = not self.running

    def _answering(self, action: Callable[[], object]) -> Callable[[Any], None]:
        """What a press of a button calls: ``action``, its errors shown."""

        def pressed(_: Any) -> None:
            with self.problems_shown():
                action()

        return pressed


def each_of(names: Iterable[str], do: Callable[[str], object], check: Callable[[], None]) -> dict[str, str]:
    """``do`` for each of ``names``, ``check`` before it; the reasons of those that failed, which keep no other from being done.

    >>> each_of(["a", "", "b"], lambda name: name[0], lambda: None)
    {'': 'IndexError: string index out of range'}
    """
    failed = {}
    for name in names:
        check()
        try:
            do(name)
        except Exception as error:
            failed[name] = in_words(error)
    return failed


def require_none_failed(failed: Mapping[str, str]) -> None:
    """Raise ``ValueError`` with the reasons of those that ``failed``."""
    reasons = dict.fromkeys(failed.values())
    said = [f"{', '.join(name for name in failed if failed[name] == reason)}: {reason}" for reason in reasons]
    if said:
        raise ValueError("; ".join(said))


def state_of(job: Job) -> str:
    """How a job stands, in a word."""
    return "Running" if job.running else "Stopped" if job.stopping else "Done"
