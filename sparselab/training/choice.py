"""How the weights of a model are pruned: by which calculator, which pruner and which statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from sparselab.core.channel_order import ChannelOrder
from sparselab.core.layers import LayerWeight
from sparselab.core.moves import Movable
from sparselab.masks import AnyPattern, MaskCalculator, calculator
from sparselab.masks.calculator import is_calculator
from sparselab.pruners import BySaliency, Pruned, Pruner, get_pruner
from sparselab.pruners.by_function import ByFunction
from sparselab.pruners.in_order import InOrder
from sparselab.pruners.pruner import checked, require_own_scores
from sparselab.saliency import ModelSaliency, for_layer, from_statistics, from_weight, needs
from sparselab.saliency.scoring import require_saliency

if TYPE_CHECKING:
    from sparselab.network.plan import Plan

Statistics = Mapping[type[Any], Mapping[str, Any]]
"""By kind and weight name, as ``sparselab.statistics.collect`` returns them."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What stays of each weight, and what value it has.

    ``calculator`` is ``None`` where a function of the user's own makes the masks. ``pruner`` is
    ``None`` for masks by ``saliency``, which may differ from weight to weight. Weights that have an
    order of their own among ``orders``, by name, are pruned in it.
    """

    calculator: MaskCalculator | None
    saliency: ModelSaliency = "magnitude"
    pruner: Pruner | None = None
    statistics: Statistics = field(default_factory=dict)
    orders: Mapping[str, ChannelOrder] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pattern: AnyPattern | Callable[[Tensor], Tensor],
        saliency: ModelSaliency,
        pruner: str | Pruner | None,
        statistics: Statistics | None,
    ) -> Choice:
        """From what a user writes. Raises ``ValueError`` for what contradicts itself or lacks statistics."""
        require_own_scores(pruner, saliency)
        statistics = _by_kind(statistics)
        chosen = None if pruner is None else get_pruner(pruner)
        if isinstance(chosen, BySaliency) and not isinstance(chosen.saliency, str):
            # Scores belong to weights and follow a permutation: here is where that is known.
            saliency, chosen = chosen.saliency, None
        if callable(pattern) and not is_calculator(pattern) and not isinstance(pattern, type):
            if pruner is not None:
                raise ValueError(f"pruner={pruner!r} and a mask function: the function decides already; leave one out")
            choice = cls(None, saliency, ByFunction(pattern), statistics)
        else:
            choice = cls(calculator(cast("AnyPattern", pattern)), saliency, chosen, statistics)
        choice._require_statistics()
        return choice

    def __call__(self, layer: LayerWeight, weight: Tensor, stage: MaskCalculator | None = None) -> Pruned:
        """Prune ``weight`` as the weight of ``layer``, by ``stage`` in place of the calculator where it is given.

        Raises ``ValueError`` naming the layer.
        """
        pruner = self._pruner(layer)
        found = self.statistics.get(pruner.needs, {}) if pruner.needs is not None else {}
        if pruner.needs is not None and layer.name not in found:
            raise ValueError(
                f"layer {layer.name!r}: no {pruner.needs.__name__} for it among the statistics of {len(found)} weights. "
                "Was its layer reached by the data?"
            )
        calculate = cast("MaskCalculator", stage or self.calculator)  # a function of the user's own asks none
        try:
            return checked(pruner(weight, calculate, found.get(layer.name), channel_dim=layer.channel_dim), weight)
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error

    def moved(self, layers: Sequence[LayerWeight], plan: Plan) -> Choice:
        """The choice for the weights after ``plan``: scores and statistics move as they did."""
        saliency = self.saliency
        if isinstance(saliency, (Mapping, Tensor, Movable)):
            saliency = plan.moved({layer.name: for_layer(saliency, layer.name) for layer in layers})
        statistics = {kind: plan.moved(found) for kind, found in self.statistics.items()}
        return dataclasses.replace(self, saliency=saliency, statistics=statistics, orders=plan.moved(self.orders))

    @property
    def orders_by(self) -> ModelSaliency:
        """What orders of channels are searched by: the scores that masks are made of, else magnitudes."""
        saliency = self.pruner.saliency if isinstance(self.pruner, BySaliency) else self.saliency
        if isinstance(saliency, str) and needs(saliency) is not None:
            return from_statistics(saliency, self.statistics)
        return saliency

    def __str__(self) -> str:
        """As a run is told from another: the pattern, and the pruner where there is one."""
        if isinstance(self.pruner, ByFunction):
            return "a function"
        return str(self.calculator) if self.pruner is None else f"{self.calculator} by {self.pruner}"

    def _pruner(self, layer: LayerWeight) -> Pruner:
        pruner = self.pruner or BySaliency(for_layer(self.saliency, layer.name))
        order = self.orders.get(layer.name)
        return pruner if order is None else InOrder(pruner, order)

    def _require_statistics(self) -> None:
        """Raise ``ValueError`` for a saliency that is none, and for statistics that are asked for and not there."""
        saliency: Any = self.saliency
        require_saliency(saliency)
        if isinstance(saliency, str) and needs(saliency) not in (None, *self.statistics):
            from_weight(saliency)  # raises, and says how to collect what it needs
        pruner = self.pruner
        if pruner is not None and pruner.needs is not None and pruner.needs not in self.statistics:
            kind = pruner.needs.__name__
            raise ValueError(
                f"pruner {pruner} needs {kind} of every weight's inputs: "
                f"pass statistics=sl.statistics.collect(model, batches, [{kind}])"
            )


def _by_kind(statistics: Statistics | None) -> Statistics:
    """``statistics``, none for ``None``. Raises ``ValueError`` for anything but a mapping by kind."""
    if statistics is None:
        return {}
    wrong = (
        [key for key in statistics if not isinstance(key, type)] if isinstance(statistics, Mapping) else [statistics]
    )
    if wrong:
        what = wrong[0] if isinstance(wrong[0], str) else type(wrong[0]).__name__
        raise ValueError(
            f"statistics are by kind, then by weight, as sl.statistics.collect(model, batches) returns them; got {what}"
            " where a kind should be: pass all of them, not those of one kind or one weight"
        )
    return statistics
