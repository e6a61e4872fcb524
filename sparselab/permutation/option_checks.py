"""Checks of strategies' options, each in one place and in the same words."""

from __future__ import annotations

import math


def require_at_least(least: int, strategy: str, **counts: int) -> None:
    """Raise ``ValueError`` unless every one of ``counts`` is at least ``least``.

    >>> require_at_least(1, "anneal", steps=0, chains=2)
    Traceback (most recent call last):
    ValueError: strategy 'anneal': steps must be at least 1, got 0
    """
    rule = f"must be at least {least}" if least else "must not be negative"
    for option, count in counts.items():
        if count < least:
            raise ValueError(f"strategy {strategy!r}: {option} {rule}, got {count}")


def require_temperatures(strategy: str, **temperatures: float | None) -> None:
    """Raise ``ValueError`` unless every one of ``temperatures`` that is given is positive and finite."""
    for option, temperature in temperatures.items():
        if temperature is not None and not 0 < temperature < math.inf:
            raise ValueError(f"strategy {strategy!r}: {option} must be positive and finite, got {temperature}")
