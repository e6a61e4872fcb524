"""Ctrl-C at the right moment: no model is left half moved, and no later search is begun."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

Handler = Callable[..., Any]


@contextlib.contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done."""
    pending: list[Any] = []
    with _handling(lambda before, *arguments: pending.append(arguments)) as before:
        yield
    if pending and before is not None:
        before(*pending[-1])


@contextlib.contextmanager
def interrupts_noticed() -> Iterator[Callable[[], None]]:
    """Deliver Ctrl-C at once, as usual; the block gets a function that raises it again.

    An interrupted search hands back the best order so far, so code that searches many times has to
    ask whether it was interrupted.
    """
    noticed: list[int] = []

    def note(before: Handler, *arguments: Any) -> None:
        noticed.append(1)
        before(*arguments)

    def raise_again() -> None:
        if noticed:
            raise KeyboardInterrupt

    with _handling(note):
        yield raise_again


@contextlib.contextmanager
def _handling(handler: Callable[..., None]) -> Iterator[Handler | None]:
    """Have ``handler(before, signal, frame)`` called instead of ``before``, the present handler.

    Outside the main thread, where handlers cannot be set, nothing is changed.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield None
        return
    signal.signal(signal.SIGINT, lambda *arguments: handler(before, *arguments))
    try:
        yield before
    finally:
        signal.signal(signal.SIGINT, before)
