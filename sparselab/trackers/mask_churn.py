"""How much masks change when they are recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sparselab.core.sharding import whole
from sparselab.trackers.tracker import Tracker
from sparselab.training.sparsifier import Sparsifier


class MaskChurnTracker(Tracker):
    """The entries of every mask that flip at a recomputation.

    There is one row per layer and recomputation, and nothing in between. Columns: ``layer``;
    ``flipped``, how many entries differ from the masks before, which is the sparse architecture
    divergence (SAD) of Zhou et al. 2021, "Learning N:M Fine-grained Structured Sparse Neural
    Networks From Scratch"; ``flipped_percent`` of the layer's entries; ``since_first_percent``,
    against the first masks. Looks only when the Sparsifier has put other masks in place, so it
    costs nothing else. Masks that are off (all ones) are not compared.
    """

    columns = ("layer", "flipped", "flipped_percent", "since_first_percent")

    def __init__(self, sparsifier: Sparsifier) -> None:
        super().__init__(every=1)
        self.sparsifier = sparsifier
        self._generation = 0
        self._first: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """One row per layer when there are new masks to compare with those before."""
        weights = self.sparsifier.weights
        if weights.generation == self._generation or not weights.any_masked():
            return
        self._generation = weights.generation
        now = {name: whole(mask).clone() for name, mask in weights.masks.items()}
        if self._last:
            yield from (self._row(name, mask) for name, mask in now.items())
        self._first = self._first or now
        self._last = now

    def attach(self, optimizer: Any) -> None:
        """Watch; masks that are there already are those to compare with."""
        super().attach(optimizer)
        self.record()

    def state_dict(self) -> dict[str, Any]:
        """With the masks to compare with."""
        return {**super().state_dict(), "first": self._first, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        super().load_state_dict(state)
        masks = self.sparsifier.weights.masks
        self._first, self._last = (
            {name: mask.to(masks[name].device) for name, mask in state[which].items()} for which in ("first", "last")
        )
        self._generation = self.sparsifier.weights.generation

    def _row(self, name: str, mask: Tensor) -> dict[str, Any]:
        flipped = int((mask != self._last[name]).sum())
        return {
            "layer": name,
            "flipped": flipped,
            "flipped_percent": 100 * flipped / mask.numel(),
            "since_first_percent": 100 * int((mask != self._first[name]).sum()) / mask.numel(),
        }
