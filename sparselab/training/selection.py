"""Which weights of a model a Sparsifier prunes, and for each of the others the reason why not."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparselab.core.layers import Custom, ModelWeight, Names, TiedWeight, model_weights
from sparselab.core.readable import why_no_arithmetic
from sparselab.masks import MaskCalculator
from sparselab.masks.eligibility import is_adapter, may_be_packed, why_not_pruned
from sparselab.training.frame import note_of

_log = logging.getLogger("sparselab")


@dataclass(frozen=True)
class Selection:
    """The user's choice of layers, and what a trace of the model told about others (``model_weights``)."""

    names: Names
    layer_types: tuple[type[nn.Module], ...] | None = None
    custom: Custom | None = None
    rule: str = "divisible"
    traced: Mapping[str, int] = field(default_factory=dict)

    def __call__(
        self, model: nn.Module, calculator: MaskCalculator | None
    ) -> dict[str, tuple[ModelWeight, str | None]]:
        """Every weight by name, with the reason why ``calculator`` does not prune it, or ``None``.

        Without a calculator (``None``: a function of the user's own makes the masks) any shape will do.

        Raises ``ValueError`` for a name that matches nothing in the model.
        """
        weights = list(self.weights(model))
        self.names.check(model, weights)
        return {weight.name: (weight, self._why_not(weight, calculator)) for weight in weights}

    def weights(self, model: nn.Module) -> Iterator[ModelWeight]:
        """Every weight of ``model``, chosen or not."""
        return model_weights(model, self.custom, self.traced)

    def _why_not(self, weight: ModelWeight, calculator: MaskCalculator | None) -> str | None:
        listed = self.layer_types is None or isinstance(weight, TiedWeight)
        if not listed and not isinstance(weight.module, self.layer_types or ()):
            return f"{type(weight.module).__name__} is not among the layer types to prune"
        return why_not_pruned(weight, calculator, self.rule, self.names) or why_no_arithmetic(weight.weight)


def packed_by_trace(model: nn.Module, example_inputs: Any, custom: Custom | None) -> dict[str, int]:
    """The input channels of packed parameters that neither their modules nor ``custom`` tell, read off a trace."""
    if example_inputs is None:
        return {}
    others = [weight.name for weight in model_weights(model, custom) if may_be_packed(weight)]
    if not others:
        return {}
    from sparselab.network.contracted import packed_channel_dims
    from sparselab.network.tracing import UntraceableError

    try:
        return packed_channel_dims(model, example_inputs, others)
    except UntraceableError as error:
        _log.warning("input channels of %s, ... stay unknown: %s", others[0], error)
        return {}


def say_what_was_chosen(chosen: Mapping[str, tuple[ModelWeight, str | None]]) -> None:
    """Say once in the log what a user may not expect: adapters left alone, embeddings pruned through a layer."""
    adapters = [name for name, (weight, reason) in chosen.items() if reason and is_adapter(weight)]
    if adapters:
        _log.warning(
            "%d LoRA adapters are not pruned (%s, ...): include=['*lora_A*', '*lora_B*'] would prune them",
            *(len(adapters), adapters[0]),
        )
    for name, (weight, reason) in chosen.items():
        if reason is None and note_of(weight).startswith("tied"):
            _log.warning("%s is pruned; %s", name, note_of(weight))
