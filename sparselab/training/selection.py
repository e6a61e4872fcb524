"""Which weights of a model a Sparsifier prunes, and for each of the others the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sparselab.core.layers import LayerWeight, Names, layer_weights
from sparselab.core.patterns import Pattern
from sparselab.masks import MaskCalculator
from sparselab.masks.eligibility import why_not

AnyPattern = str | Pattern | MaskCalculator | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Selection:
    """The user's choice of layers."""

    names: Names
    layer_types: tuple[type[nn.Module], ...] | None = None
    custom: Mapping[type[nn.Module], Sequence[str]] | None = None
    rule: str = "divisible"

    def __call__(self, model: nn.Module, pattern: AnyPattern) -> dict[str, tuple[LayerWeight, str | None]]:
        """Every weight by name, with the reason why ``pattern`` does not prune it, or ``None``.

        Raises ``ValueError`` for a name that matches nothing in the model.
        """
        layers = list(layer_weights(model, self.custom))
        self.names.check(model, layers)
        shape = _shape_pattern(pattern)
        return {layer.name: (layer, self._why_not(layer, shape)) for layer in layers}

    def _why_not(self, layer: LayerWeight, pattern: Pattern) -> str | None:
        if self.layer_types is not None and not isinstance(layer.module, self.layer_types):
            return f"{type(layer.module).__name__} is not among the layer types to prune"
        return self.names.why_not(layer) or why_not(
            layer.module, layer.attribute, pattern, self.rule, channel_dim=layer.channel_dim
        )


def _shape_pattern(pattern: AnyPattern) -> Pattern:
    """The pattern whose M the eligibility rule checks; a user's own function may take any shape."""
    if isinstance(pattern, MaskCalculator):
        outputs, channels = pattern.multiples
        return Pattern("2d" if outputs == channels > 1 else "own", channels, channels, 1.0, outputs)
    return Pattern.parse(pattern) if isinstance(pattern, (str, Pattern)) else Pattern("function", 1, 1, 1.0)
