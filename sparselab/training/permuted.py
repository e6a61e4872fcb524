"""Channel permutation of a model that is about to be pruned: what the Sparsifier adds to ``network.permute``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from torch.optim import Optimizer

from sparselab.core.layers import LayerWeight
from sparselab.core.moves import Movable
from sparselab.saliency import ModelSaliency, for_layer

if TYPE_CHECKING:
    from sparselab.network.plan import Plan


class AllStates:
    """The states of several optimizers seen as those of one, for a plan that moves them."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.state: dict[Any, dict[Any, Any]] = {}
        for number, optimizer in enumerate(optimizers):
            for parameter, state in optimizer.state.items():
                self.state.setdefault(parameter, {}).update({(number, key): value for key, value in state.items()})

    def as_optimizer(self) -> Optimizer:
        """Itself, as what plans take: they read nothing but ``state``."""
        return cast("Optimizer", self)


def moved_saliency(saliency: ModelSaliency, layers: Sequence[LayerWeight], plan: Plan) -> ModelSaliency:
    """The ``saliency`` that fits the weights after ``plan``, where it was one for every layer too (``Plan.moved``)."""
    if not isinstance(saliency, (Mapping, Tensor, Movable)):
        return saliency  # a name or a function: it sees the weights as they are
    return plan.moved({layer.name: for_layer(saliency, layer.name) for layer in layers})
