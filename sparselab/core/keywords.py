"""Keywords that users bring from a neighbouring function: which one is meant here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

STRATEGY = "strategy=, how to search (Sparsifier, prune and sweeps have permutation=, where None permutes nothing)"
PERMUTATION = (
    "permutation=, whether and how to permute: None, or a strategy (permute and search_permutation have strategy=)"
)


def instead(**words: str) -> Callable[[F], F]:
    """The function, with a ``TypeError`` that says what to write in place of each of ``words``.

    >>> @instead(strategy="permutation=")
    ... def prune(*, permutation=None): ...
    >>> prune(strategy="auto")
    Traceback (most recent call last):
        ...
    TypeError: prune() has no strategy=: write permutation=
    """

    def decorated(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            for word, right in words.items():
                if word in named:
                    name = function.__qualname__.removesuffix(".__init__")
                    raise TypeError(f"{name}() has no {word}=: write {right}")
            return function(*args, **named)

        return cast("F", call)

    return decorated
