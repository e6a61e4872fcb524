"""Ctrl-C at the right moment: a model is never left half moved, and a search that ends early ends the whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

Handler = Callable[..., Any]


@contextlib.contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Ctrl-C is delivered when the block is done."""
    pending: list[Any] = []
    with _handling(lambda before, *arguments: pending.append(arguments)) as before:
        yield
    if pending and before is not None:
        before(*pending[-1])


@contextlib.contextmanager
def interrupts_noticed() -> Iterator[Callable[[], None]]:
    """Ctrl-C is delivered at once, as ever; calling what the block gets raises it again.

    A search hands back the best order so far when it is interrupted. Whoever searches many times has to know.
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
    """``handler(before, signal, frame)`` instead of the handler ``before``; nothing where it is not ours to replace."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield None
        return
    signal.signal(signal.SIGINT, lambda *arguments: handler(before, *arguments))
    try:
        yield before
    finally:
        signal.signal(signal.SIGINT, before)
