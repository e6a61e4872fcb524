"""The norms of what every layer of a model is given, from one pass of hooks over data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparselab.core.registry import unknown_name
from sparselab.saliency.names import SALIENCIES, from_statistics, needs
from sparselab.saliency.ria import Ria
from sparselab.saliency.scoring import Saliency
from sparselab.saliency.wanda import Wanda
from sparselab.statistics.collecting import Forward, collect
from sparselab.statistics.input_norms import InputNorms
from sparselab.statistics.positions import PositionMask, padding


@dataclass(frozen=True, eq=False)
class ActivationNorms:
    """What the layers of a model were given: ``inputs`` by weight name.

    The saliencies that score by norms are made of it.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> activations = collect_activations(model, [torch.randn(16, 4)])
    >>> sorted(activations.saliency("ria"))
    ['0.weight', '2.weight']
    """

    inputs: Mapping[str, InputNorms]

    def wanda(self) -> dict[str, Wanda]:
        """The Wanda saliency of every weight."""
        return {name: Wanda.of(seen) for name, seen in self.inputs.items()}

    def ria(self, power: float = 0.5) -> dict[str, Ria]:
        """The relative importance and activations of every weight; 0.5 is the paper's ``power``."""
        return {name: Ria.of(seen, power=power) for name, seen in self.inputs.items()}

    def saliency(self, name: str) -> Mapping[str, Saliency]:
        """The saliency called ``"wanda"``, ``"ria"`` or ``"ria,power=0.3"``, by weight name.

        Raises ``ValueError`` for any name that does not score by norms.
        """
        plain = SALIENCIES.split(name)[0]
        if plain not in SALIENCIES or needs(plain) is not InputNorms:
            given = [other for other in SALIENCIES.names() if needs(other) is InputNorms]
            raise unknown_name("saliency from activations", plain, given)
        return from_statistics(name, {InputNorms: self.inputs})


def collect_activations(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    mask: PositionMask | None = padding,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    progress: bool = True,
) -> ActivationNorms:
    """One pass of ``model`` over ``batches``: the norms of what each layer is given.

    The short way to ``sparselab.statistics.collect(model, batches)``, which says the rest. A batch
    is what the model takes (a tensor, a tuple of positional or a dict of keyword arguments),
    ``(inputs, labels)``, or what ``forward(model, batch)`` takes; its tensors are moved to
    ``device``, if given. Padding, by the attention mask of a batch, counts for nothing; ``mask``
    says otherwise. A bar is shown after two seconds, if ``progress``. Norms are accumulated in float64. Raises ``ValueError`` when there is no batch.
    """
    found = collect(model, batches, mask=mask, device=device, forward=forward, progress=progress)
    return ActivationNorms(dict(found[InputNorms]))


def collect_wanda(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    mask: PositionMask | None = padding,
    device: torch.device | str | None = None,
) -> dict[str, Wanda]:
    """``collect_activations(model, batches).wanda()``: Wanda for every layer that was reached."""
    return collect_activations(model, batches, mask=mask, device=device).wanda()
