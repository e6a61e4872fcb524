"""Sparsity patterns: what ``"2:4"``, ``"m4n2_2d_best"`` and ``"unstructured,0.5"`` mean, parsed in this one place."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass

_NM = re.compile(r"(\d+):(\d+)")
_VNM = re.compile(r"(\d+):(\d+):(\d+)")
_MN = re.compile(r"m(\d+)n(\d+)_(\w+)")
_DENSITY = re.compile(r"([a-z]\w*)\s*,\s*(?:density\s*=\s*)?([0-9.eE+-]+)")

GRAMMAR = (
    "'N:M' (keep N of every M input channels, e.g. '2:4'), 'mMnN_CALCULATOR' as ASP writes it "
    "(e.g. 'm4n2_1d', 'm4n2_2d_best'), 'V:N:M' (in V outputs the same four of every M, e.g. '64:2:8'), "
    "or 'NAME,DENSITY' (e.g. 'unstructured,0.5', 'row,0.5')"
)


def require_n_of_m(n: int, m: int) -> None:
    """Raise ``ValueError`` unless ``0 < n <= m``."""
    if not 0 < n <= m:
        raise ValueError(f"pattern {n}:{m} keeps {n} of every {m}: N must be at least 1 and at most M")


def require_density(density: float) -> None:
    """Raise ``ValueError`` unless ``density`` is a share."""
    if not 0 <= density <= 1:
        raise ValueError(f"density {density:g} must lie between 0 and 1: it is the share of weights that is kept")


@dataclass(frozen=True)
class Pattern:
    """Which weights a mask may keep: a mask calculator's name with the ``n`` of ``m``, or the density, it keeps.

    ``n`` and ``m`` are ``None`` for patterns without groups. ``density`` is the share of weights
    that is kept. ``v`` is the outputs that share their columns, ``None`` but for V:N:M.

    >>> Pattern.parse("2:4")
    Pattern(calculator='1d', n=2, m=4, density=0.5, v=None)
    >>> str(Pattern.parse("m4n2_1d")), str(Pattern.parse("m8n4_2d_best"))
    ('2:4', 'm8n4_2d_best')
    """

    calculator: str
    n: int | None
    m: int | None
    density: float
    v: int | None = None

    @classmethod
    def parse(cls, pattern: str | Pattern) -> Pattern:
        """The pattern that a text stands for (a ``Pattern`` is returned as it is).

        Raises ``ValueError`` for a text outside the grammar and for ``N`` outside ``0 < N <= M``.
        """
        if isinstance(pattern, Pattern):
            return pattern
        if not isinstance(pattern, str):
            raise no_pattern(pattern)
        text = pattern.strip()
        if match := _NM.fullmatch(text):
            return cls.nm(int(match[1]), int(match[2]))
        if match := _VNM.fullmatch(text):
            return cls.vnm(int(match[1]), int(match[2]), int(match[3]))
        if match := _MN.fullmatch(text):
            return cls.nm(int(match[2]), int(match[1]), match[3])
        if match := _DENSITY.fullmatch(text):
            return cls.with_density(match[1], match[2])
        raise ValueError(f"{pattern!r} is not a pattern; write {GRAMMAR}")

    @classmethod
    def nm(cls, n: int, m: int, calculator: str = "1d") -> Pattern:
        """Keep ``n`` of every ``m``; raises ``ValueError`` unless ``0 < n <= m``."""
        require_n_of_m(n, m)
        return cls(calculator, n, m, n / m)

    @classmethod
    def vnm(cls, v: int, n: int, m: int) -> Pattern:
        """Keep ``n`` of every ``m``, in ``v`` outputs of the same four.

        Raises ``ValueError`` unless ``v`` is positive.
        """
        if v < 1:
            raise ValueError(f"pattern {v}:{n}:{m} spans {v} outputs: V must be at least 1")
        plain = cls.nm(n, m)
        return cls("vnm", n, m, plain.density, v)

    @classmethod
    def with_density(cls, calculator: str, density: str) -> Pattern:
        """Keep a share of the weights; raises ``ValueError`` unless ``0 <= density <= 1``."""
        try:
            share = float(density)
        except ValueError:
            raise ValueError(f"the density in '{calculator},{density}' is not a number") from None
        require_density(share)
        return cls(calculator, None, None, share)

    def require_nm(self, what: str) -> tuple[int, int]:
        """``(n, m)``, or a ``ValueError`` saying that ``what`` needs a pattern with groups."""
        if self.n is None or self.m is None:
            raise ValueError(f"{what} needs an N:M pattern such as '2:4', got '{self}'")
        return self.n, self.m

    def __str__(self) -> str:
        if self.n is None or self.m is None:
            return f"{self.calculator},{self.density}"
        if self.v is not None:
            return f"{self.v}:{self.n}:{self.m}"
        return f"{self.n}:{self.m}" if self.calculator == "1d" else f"m{self.m}n{self.n}_{self.calculator}"


def no_pattern(given: object, or_what: str = "") -> ValueError:
    """The error that says that ``given`` is no pattern; ``or_what`` is taken beside texts."""
    if isinstance(given, type):
        return ValueError(f"pattern={given.__name__} is a class: give an object of it, {given.__name__}(...)")
    kind = type(given).__name__
    return ValueError(f"a pattern is a text such as '2:4'{or_what}, got {reprlib.repr(given)} ({kind})")
