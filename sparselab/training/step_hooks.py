"""Hooks around the steps of optimizers that survive a copy and a pickle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Before = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], Arguments | None]
After = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]


class StepHooks:
    """Calls ``after`` each step of the optimizers that were added, and ``before`` it.

    ``torch.optim.Optimizer`` drops its hooks when it is copied or pickled. These are registered
    anew with the copied optimizers, so that whatever watches or corrects their steps goes on doing
    so. A step that calls that of its parent class is one step. With ``first``, ``after`` is called before the hooks that are there already: a copy may be
    put together in any order.
    """

    def __init__(self, after: After, before: Before | None = None, *, first: bool = False) -> None:
        self._after, self._before, self._first = after, before, first
        self._hooked: list[tuple[Optimizer, list[RemovableHandle]]] = []

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers in the order in which they were added."""
        return tuple(optimizer for optimizer, _ in self._hooked)

    def add(self, optimizer: Optimizer) -> None:
        """Call around the steps of ``optimizer`` too; adding it twice changes nothing."""
        if any(known is optimizer for known in self.optimizers):
            return
        handle = optimizer.register_step_post_hook(self._after_all)
        if self._first and (hooks := handle.hooks_dict_ref()) is not None:
            hooks.move_to_end(handle.id, last=False)
        handles = [handle]
        if self._before is not None:
            handles.append(optimizer.register_step_pre_hook(self._before_all))
        self._hooked.append((optimizer, handles))

    def remove(self, optimizer: Optimizer) -> None:
        """Leave ``optimizer`` alone; nothing to do if it was not added."""
        for known, handles in self._hooked:
            if known is optimizer:
                for handle in handles:
                    handle.remove()
        self._hooked = [entry for entry in self._hooked if entry[0] is not optimizer]

    def clear(self) -> None:
        """Leave all optimizers alone."""
        for optimizer in self.optimizers:
            self.remove(optimizer)

    def _before_all(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        if self._before is None or _is_inner(optimizer):
            return None
        return self._before(optimizer, args, kwargs)

    def _after_all(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not _is_inner(optimizer):
            self._after(optimizer, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "after": self._after,
            "before": self._before,
            "first": self._first,
            "optimizers": self.optimizers,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._after, self._before, self._first = state["after"], state["before"], state["first"]
        self._hooked = []
        for optimizer in state["optimizers"]:
            self.add(optimizer)


def _is_inner(optimizer: Optimizer) -> bool:
    """Whether the hooks that are called now are those of ``super().step()`` in a step of ``optimizer``.

    PyTorch puts hooks around the ``step`` of every class of which it has met an optimizer. The call
    stack knows what is running, also after a step that failed; a count would not.
    """
    steps = [vars(kind)["step"] for kind in type(optimizer).__mro__ if "step" in vars(kind)]
    hooked = [step.__code__ for step in steps if getattr(step, "hooked", False)]
    if len(hooked) < 2:
        return False
    running = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in hooked and frame.f_locals.get("args", (None,))[0] is optimizer:
            running += 1
        frame = frame.f_back
    return running > 1
