"""Answers in place of what a module computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Reached(BaseException):
    """Ends a forward pass once what it was for is done; no code that catches errors sees it."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.output = output


@contextmanager
def answering(module: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """``answer`` is what runs in place of ``module.forward``, while it lasts."""
    own = vars(module).get("forward")
    module.forward = answer
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def copy_of(output: Any) -> Any:
    """``output`` with copies of its tensors: whoever is given it may change them in place."""
    return tree_map(lambda entry: entry.clone() if isinstance(entry, Tensor) else entry, output)
