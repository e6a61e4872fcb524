"""What a mask calculator is: it chooses what to keep, and answers what others ask about that choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparselab.core.compressed import counted

_SAMPLE = 64
"""Outputs and channels, at least, of the random scores that a density is measured on."""


NOTHING_TO_CHOOSE = "1 input channel, nothing to choose from"


@dataclass(frozen=True)
class Violations:
    """How many of ``groups`` break a pattern; ``rule`` says what breaking it is: ``"keep more than 2"``."""

    count: int
    groups: int
    rule: str


class MaskCalculator(ABC):
    """A frozen dataclass that is called with scores and returns the mask.

    Two things every calculator says: ``multiples`` and, when called, the mask. The rest has answers
    that follow from these two and fit most calculators; one that knows better overrides them. An
    object that has only the two, whatever it extends, is taken wherever a calculator is.

    >>> @dataclass(frozen=True)
    ... class EverySecond(MaskCalculator):
    ...     multiples = (1, 2)
    ...     def __call__(self, scores):
    ...         return torch.arange(scores.shape[-1]).expand(scores.shape) % 2 == 0
    >>> EverySecond().density, EverySecond().nm, EverySecond().why_not(outputs=3, channels=5)
    (0.5, (1, 2), '5 input channels are not a multiple of 2')
    """

    called: ClassVar[str] = "this mask"
    """What a sentence about a weight that does not fit calls such masks."""

    @property
    @abstractmethod
    def multiples(self) -> tuple[int, int]:
        """What outputs and channels must be multiples of."""

    @abstractmethod
    def __call__(self, scores: Tensor) -> Tensor:
        """The mask of ``scores``.

        ``scores`` are ``(positions, outputs, channels)``, finite, non-negative or signed (rank by
        ``|score|``), with outputs and channels already multiples of ``multiples``. Returns a bool
        tensor of that shape on that device: True where a weight stays.
        """

    transposable: ClassVar[bool] = False
    """Whether the transposed mask follows the pattern too (what users write as ``2d``)."""

    # Cached properties are no data descriptors, so calculators may have fields of these names.

    @cached_property
    def density(self) -> float:
        """The share of weights that is kept; here what random scores show."""
        return float(self._sample.double().mean())

    @cached_property
    def nm(self) -> tuple[int, int] | None:
        """``(n, m)`` where at most ``n`` of every ``m`` channels are kept; ``None`` without groups."""
        m = self.multiples[1]
        n = round(self.density * m)
        exact = m > 1 and n > 0 and abs(n - self.density * m) < 1e-6
        return (n, m) if exact and not bool((groups(self._sample, m).sum(-1) > n).any()) else None

    @cached_property
    def _sample(self) -> Tensor:
        """The mask of random scores."""
        outputs, channels = (size * -(-_SAMPLE // size) for size in self.multiples)
        return self(torch.rand(1, outputs, channels, generator=torch.Generator().manual_seed(0)))

    @cached_property
    def searched_as(self) -> str | None:
        """The pattern that orders of channels are searched for; ``None`` where none would help."""
        return None if self.nm is None else "{}:{}".format(*self.nm)

    def stages(self) -> tuple[MaskCalculator, ...]:
        """The way from dense to this calculator, one weight of every group at a time, itself last.

        Empty where there is no such way; ``gradual`` follows it.
        """
        return ()

    def why_not(self, outputs: int, channels: int) -> str | None:
        """Why a weight of so many outputs and input channels cannot have such a mask, or ``None``."""
        rows, columns = self.multiples
        if channels == 1 and (columns > 1 or self.nm is not None):
            return NOTHING_TO_CHOOSE
        if channels % columns:
            return f"{channels} input channels are not a multiple of {columns}"
        if outputs % rows:
            return f"{outputs} outputs are not a multiple of {rows}, as {self.called} needs"
        return None

    def violations(self, slices: Tensor) -> Violations:
        """The groups of a weight, ``(positions, outputs, channels)`` of any dtype, that break the pattern.

        A last group that is cut short counts as filled up with zeros. Raises ``ValueError`` for a
        calculator without groups.
        """
        if self.nm is None:
            raise ValueError(f"check needs an N:M pattern such as '2:4', got '{self}'")
        n, m = self.nm
        sides = [slices, slices.transpose(1, 2)] if self.transposable else [slices]
        kept = [counted(groups(side != 0, m)) for side in sides]
        over = sum(int((held > n).sum()) for held in kept)
        return Violations(over, sum(held.numel() for held in kept), f"keep more than {n}")

    def __str__(self) -> str:
        return repr(self)


class NOfM(MaskCalculator):
    """A calculator that keeps ``n`` of every ``m``; which, and of what, a dataclass with these fields says."""

    n: int
    m: int

    @property
    def density(self) -> float:
        """N of M."""
        return self.n / self.m

    @property
    def nm(self) -> tuple[int, int]:
        """N of M channels."""
        return self.n, self.m


def groups(slices: Tensor, size: int) -> Tensor:
    """The last dimension cut into groups of ``size``, the last one filled up: ``(..., groups, size)``."""
    missing = -slices.shape[-1] % size
    padded = pad(slices, (0, missing)) if missing else slices
    return padded.reshape(*padded.shape[:-1], padded.shape[-1] // size, size)


def is_calculator(value: object) -> bool:
    """Whether ``value`` chooses masks: an object, not a class, that says ``multiples`` and can be called."""
    return callable(value) and not isinstance(value, type) and hasattr(value, "multiples")


def completed(value: Any) -> MaskCalculator:
    """``value``, which ``is_calculator``, with an answer to everything."""
    return value if isinstance(value, MaskCalculator) else Completed(value)


_ANSWERS = ("called", "density", "nm", "transposable", "searched_as", "stages", "why_not", "violations")


@dataclass(frozen=True)
class Completed(MaskCalculator):
    """A calculator that need not say more than the least, ``given``, completed by the answers that follow from it.

    What it does say beside, a ``density`` or a ``why_not``, goes before them.
    """

    given: Any

    def __post_init__(self) -> None:
        for name in _ANSWERS:
            if hasattr(self.given, name):
                object.__setattr__(self, name, getattr(self.given, name))

    @property
    def multiples(self) -> tuple[int, int]:
        """What ``given`` says."""
        outputs, channels = self.given.multiples
        return int(outputs), int(channels)

    def __call__(self, scores: Tensor) -> Tensor:
        """What ``given`` keeps."""
        mask: Tensor = self.given(scores)
        return mask

    def __str__(self) -> str:
        kind = type(self.given)
        if any({"__str__", "__repr__"} & vars(base).keys() for base in kind.__mro__ if base is not object):
            return str(self.given)
        options = ", ".join(f"{name}={value!r}" for name, value in getattr(self.given, "__dict__", {}).items())
        return f"{kind.__name__}({options})" if options else kind.__name__
