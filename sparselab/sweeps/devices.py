"""A process pool whose workers own one CUDA device each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def device_pool(devices: int | Iterable[int | str]) -> ProcessPoolExecutor:
    """A pool of spawned processes, one for every device, each of which sees that device alone, as ``cuda:0``.

    ``devices`` is how many (the first of those that this process may see) or their numbers or UUIDs. Raises
    ``ValueError`` when there are none. Nothing here touches CUDA.

    >>> with device_pool(["0", "1"]) as pool:
    ...     pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() in ("0", "1")
    True
    """
    chosen = _visible(devices) if isinstance(devices, int) else [str(device) for device in devices]
    if not chosen:
        raise ValueError(f"device_pool({devices!r}) names no device; give how many, or their numbers")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for device in chosen:
        queue.put(device)
    return ProcessPoolExecutor(len(chosen), mp_context=context, initializer=_take, initargs=(queue,))


def _visible(count: int) -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if listed is None else listed.split(",")
    if count > len(names):
        raise ValueError(f"{count} devices are asked for, CUDA_VISIBLE_DEVICES={listed} has {len(names)}")
    return names[:count]


def _take(queue: Any) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = queue.get()
