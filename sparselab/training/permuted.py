"""Channel permutation of a model that is about to be pruned: what the Sparsifier adds to ``network.permute``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparselab.eligibility import LayerWeight
from sparselab.network.plan import Move
from sparselab.saliency import ModelSaliency, Saliency, Wanda, for_layer

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
    """The ``saliency`` that fits the weights after ``plan``: scores and norms given by the user move along.

    Names and functions of the weight need nothing; tensors and ``Wanda`` are put in the order of the weight's channels.
    """
    if isinstance(saliency, str) or (callable(saliency) and not isinstance(saliency, Wanda)):
        return saliency
    moves = {name: [move for move in plan.moves if name in move.names] for name in (layer.name for layer in layers)}
    return {layer.name: _moved(for_layer(saliency, layer.name), layer, moves[layer.name]) for layer in layers}


def _moved(saliency: Saliency, layer: LayerWeight, moves: Sequence[Move]) -> Saliency:
    if not moves or not isinstance(saliency, (Tensor, Wanda)):
        return saliency
    if isinstance(saliency, Tensor):
        return _move(saliency, moves)
    norms = saliency.norms
    if norms.ndim == 1:
        dims = [-1 if dim == layer.channel_dim else 1 for dim in range(layer.weight.ndim)]
        norms = norms.reshape(dims)
    return Wanda(_move(norms.expand(layer.weight.shape), moves), saliency.channel_dim)


def _move(tensor: Tensor, moves: Sequence[Move]) -> Tensor:
    with torch.no_grad():
        for move in moves:
            tensor = move(tensor)
    return tensor
