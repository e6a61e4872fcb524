"""The order as it is: the control of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.permutation.strategy import Search


@dataclass(frozen=True)
class Identity:
    """Leave every channel where it is."""

    def __call__(self, search: Search) -> None:
        """Nothing to do: a search starts from the identity."""

    def toy(self) -> Identity:
        """See ``OffersToy``."""
        return self
