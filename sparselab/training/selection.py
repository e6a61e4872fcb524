"""Which weights of a model a Sparsifier prunes, and for each of the others the reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sparselab.core.layers import LayerWeight, Names, layer_weights
from sparselab.core.readable import why_no_arithmetic
from sparselab.masks import MaskCalculator
from sparselab.masks.eligibility import why_not


@dataclass(frozen=True)
class Selection:
    """The user's choice of layers."""

    names: Names
    layer_types: tuple[type[nn.Module], ...] | None = None
    custom: Mapping[type[nn.Module], Sequence[str]] | None = None
    rule: str = "divisible"

    def __call__(
        self, model: nn.Module, calculator: MaskCalculator | None
    ) -> dict[str, tuple[LayerWeight, str | None]]:
        """Every weight by name, with the reason why ``calculator`` does not prune it, or ``None``.

        Without a calculator (``None``: a function of the user's own makes the masks) any shape will do.

        Raises ``ValueError`` for a name that matches nothing in the model.
        """
        layers = list(layer_weights(model, self.custom))
        self.names.check(model, layers)
        return {layer.name: (layer, self._why_not(layer, calculator)) for layer in layers}

    def _why_not(self, layer: LayerWeight, calculator: MaskCalculator | None) -> str | None:
        if self.layer_types is not None and not isinstance(layer.module, self.layer_types):
            return f"{type(layer.module).__name__} is not among the layer types to prune"
        return (
            self.names.why_not(layer)
            or why_not(layer.module, layer.attribute, calculator, self.rule, channel_dim=layer.channel_dim)
            or why_no_arithmetic(layer.weight)
        )
