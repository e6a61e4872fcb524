"""Threads over fixed blocks: the one way in which sparselab's CPU code runs in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Block = TypeVar("Block")
Result = TypeVar("Result")

_SHARE: ContextVar[int | None] = ContextVar("threads", default=None)  # None: all there are


def thread_count() -> int:
    """How many threads to use: what PyTorch was told, or ``at_most``.

    PyTorch is told by ``torch.set_num_threads`` or ``OMP_NUM_THREADS``.
    """
    return _SHARE.get() or torch.get_num_threads()


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Use no more than ``threads`` in what this thread calls: its share where several compute side by side."""
    before = _SHARE.set(threads)
    try:
        yield
    finally:
        _SHARE.reset(before)


def on_the_same_gpu() -> Callable[[], None]:
    """For a thread to begin with: PyTorch's current GPU there becomes the one of the thread that asks here."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # then it is the first one in every thread
        return lambda: None
    number = torch.cuda.current_device()
    return lambda: torch.cuda.set_device(number)


def map_blocks(function: Callable[[Block], Result], blocks: Iterable[Block]) -> list[Result]:
    """``[function(block) for block in blocks]``, the blocks shared out over threads.

    ``function`` must release the GIL to gain. Results come in the order of the blocks, and the blocks do not depend on
    the number of threads, so neither do the results. The threads end with the call: nothing is left behind for a fork.
    """
    blocks = list(blocks)
    threads = min(thread_count(), len(blocks))
    if threads <= 1:
        return [function(block) for block in blocks]
    with ThreadPoolExecutor(threads, thread_name_prefix="sparselab") as pool:
        return list(pool.map(function, blocks))


def side_by_side(function: Callable[[Block], Result], items: Iterable[Block], most: int) -> list[Result]:
    """``[function(item) for item in items]``, up to ``most`` at a time.

    For long work that uses threads itself: each of those at work has an equal share of them. Where one raises,
    or the caller is interrupted, no other is begun, and those at work are waited for.
    """
    items = list(items)
    threads = thread_count()
    at_once = max(1, min(threads, len(items), most))
    if at_once == 1:
        return [function(item) for item in items]

    def shared(item: Block) -> Result:
        with at_most(max(1, threads // at_once)):
            return function(item)

    with ThreadPoolExecutor(at_once, "sparselab-side", on_the_same_gpu()) as pool:
        return list(pool.map(shared, items))


def row_blocks(rows: int, size: int) -> list[slice]:
    """``rows`` cut into blocks of ``size``, the last one shorter."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
