"""Several processes: one of them computes, and all of them get its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def on_one_rank(compute: Callable[[], T]) -> T:
    """``compute()``; in a process group rank 0 computes, and all ranks return what it did.

    An error on rank 0 is raised there and, as a ``RuntimeError``, on every other rank: none is left
    waiting. The result has to be picklable. Every rank has to call this.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return compute()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = compute()
        except BaseException as error:
            dist.broadcast_object_list([None, f"{type(error).__name__}: {error}"], src=0)
            raise
    dist.broadcast_object_list(box, src=0)
    result, failure = box
    if failure is not None:
        raise RuntimeError(f"rank 0 failed: {failure}")
    done: T = result
    return done
