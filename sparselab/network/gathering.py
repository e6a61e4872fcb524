"""Gathered orders: which layers re-index their inputs, because the layers before them cannot follow."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn

from sparselab.core.layers import LayerWeight
from sparselab.core.measures import efficacy
from sparselab.core.moves import Move
from sparselab.network.gathers import Gather, why_not_gathered
from sparselab.network.named_axes import whole_scores
from sparselab.network.own_orders import OwnOrders
from sparselab.network.plan import Plan
from sparselab.network.prices import Price, Uses, price, uses_of
from sparselab.network.report import GATHER_COLUMNS, PermutationReport
from sparselab.network.searching import AxisSearch, SearchSettings
from sparselab.network.verify import Difference, Verdict, Witness

PLACES = 1e-9  # of a percent: what rounding may hide of a gain


@dataclass(frozen=True, eq=False)
class Offer:
    """A gather for the layer of one weight, and what it brings: ``gain`` is in percent of its saliency."""

    layer: LayerWeight
    search: AxisSearch
    total: float
    price: Price

    @property
    def gain(self) -> float:
        """How much more of the weight's saliency is retained with the gather, in percent of all of it."""
        worth = self.search.worth
        return 100 * (worth.retained - worth.baseline) / self.total if worth and self.total else 0.0

    @property
    def move(self) -> Move:
        """The columns of the weight in the order of its gathered input."""
        dim = self.layer.dimension
        return Move((self.layer.name,), tuple(self.layer.weight.shape), dim, dim, self.search.orders[0])

    @property
    def gather(self) -> Gather:
        """The gather itself."""
        return Gather(self.layer.name, self.search.orders[0])


@dataclass(frozen=True, eq=False)
class Gathering:
    """The gathers that a network may take after its free orders, which ``report`` has.

    ``reasons`` says of the eligible ``layers`` that cannot have one why not; ``offers`` are the others.
    """

    layers: Sequence[LayerWeight]
    report: PermutationReport
    reasons: Mapping[str, str]
    offers: Sequence[Offer]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: Any,
        layers: Sequence[LayerWeight],
        settings: SearchSettings,
        report: PermutationReport,
    ) -> Gathering:
        """Search an order for every layer whose input can be re-indexed, and price it. Nothing changes."""
        names = _names(model)
        reasons = {layer.name: why_not_gathered(layer) or _several(names[id(layer.weight)]) for layer in layers}
        alone = _alone(report.frame, layers)
        follows = "no other weight reads its channels: the layers before follow it"
        reasons |= {name: reasons[name] or follows for name in alone}
        found = [layer for layer in layers if reasons[layer.name] is None]
        try:
            uses = uses_of(model, example_inputs, found)
        except Exception as error:  # whatever a user's model raises
            why = (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")
            uses, failed = Uses(), f"the model did not run on the examples: {type(error).__name__}: {why}"
            reasons |= {layer.name: failed for layer in found}
        else:
            reasons |= {layer.name: uses.why_not(layer.name) for layer in found}
        found = [layer for layer in found if reasons[layer.name] is None]
        searches = OwnOrders.search(found, settings, report.plan).searches.axes
        by_name = {search.consumers[0].name: search for search in searches}
        measured: dict[Any, tuple[float, float]] = {}
        offers = [
            Offer(
                layer,
                by_name[layer.name],
                float(whole_scores(layer, settings.saliency).double().sum()),
                price(layer, uses.inputs[layer.name], measured),
            )
            for layer in found
            if layer.name in by_name
        ]
        return cls(layers, report, {name: why for name, why in reasons.items() if why is not None}, offers)

    def worth(self, least: float) -> list[Offer]:
        """The offers that bring at least so much, in percent of their weight's saliency."""
        return [offer for offer in self.offers if _moves(offer) and offer.gain >= least - PLACES]

    def plan(self, taken: Sequence[Offer]) -> Plan:
        """The free orders, and behind them the gathers that are taken."""
        moves = (*self.report.plan.moves, *(offer.move for offer in taken))
        return Plan(moves, tuple(offer.gather for offer in taken))

    def verified(self, witness: Witness, taken: Sequence[Offer]) -> tuple[list[Offer], Verdict]:
        """Those of the offers ``taken`` that leave the outputs as they are, and how far they do not."""
        tolerance = max([witness.tolerance, *([] if math.isnan(self.report.tolerance) else [self.report.tolerance])])

        def difference(some: Sequence[Offer]) -> Difference:
            plan = self.plan(some)
            plan.apply(witness.model)
            try:
                return witness.difference()
            finally:
                plan.inverse().apply(witness.model)

        found = difference(taken)
        if found.relative > tolerance:
            taken = [offer for offer in taken if difference([offer]).relative <= tolerance]
            found = difference(taken)
        if found.relative > tolerance:
            taken, found = [], difference([])
        return list(taken), Verdict(found, tolerance, witness.dtype)

    def reported(
        self,
        taken: Sequence[Offer],
        least: float,
        blamed: Sequence[Offer],
        verdict: Verdict | None,
        started: float,
    ) -> PermutationReport:
        """The report of the free orders with those gathers beside."""
        names = {offer.layer.name for offer in taken}
        rows = {offer.layer.name: _row(offer, offer in taken, _why_not(offer, least, blamed)) for offer in self.offers}
        gathers = [rows.get(layer.name) or _without(layer, self.reasons[layer.name]) for layer in self.layers]
        weights = self.report.weights.copy()
        weights.loc[weights["weight"].isin(names), ["status", "reason"]] = ["gathered", ""]
        errors: dict[str, Any] = {}
        if verdict is not None:
            found = verdict.difference
            errors = {
                "max_abs_error": found.absolute,
                "max_rel_error": found.relative,
                "tolerance": verdict.tolerance,
            }
        return replace(
            self.report,
            frame=_with_gathered(self.report.frame, taken),
            weights=weights,
            plan=self.plan(taken),
            gathers=pd.DataFrame(gathers, columns=GATHER_COLUMNS),
            orders=f"gathered,{least:g}",
            seconds=self.report.seconds + time.perf_counter() - started,
            **errors,
        )


def _names(model: nn.Module) -> dict[int, list[str]]:
    """All the names that the model has for each of its parameters."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return found


def _several(names: Sequence[str]) -> str | None:
    return f"its weight is also {names[1]}, which would be re-indexed too" if len(names) > 1 else None


def _alone(frame: pd.DataFrame, layers: Sequence[LayerWeight]) -> list[str]:
    """The weights that are the only readers of an axis which holds all of their input channels.

    The layers before follow whatever order such a weight wants, so a gather could bring nothing.
    """
    sizes = {layer.name: layer.weight.shape[layer.channel_dim] for layer in layers}
    free = frame[frame["status"].isin(["permuted", "kept"])]
    return [
        consumers[0]
        for consumers, size in zip(free["consumers"], free["size"])
        if len(consumers) == 1 and sizes[consumers[0]] == size
    ]


def _moves(offer: Offer) -> bool:
    return offer.search.status == "permuted"


def _why_not(offer: Offer, least: float, blamed: Sequence[Offer]) -> str:
    """Why an offer is not taken, if so."""
    if offer in blamed:
        return "it changed the model's outputs"
    if not _moves(offer):
        return offer.search.reason
    return f"worth {offer.gain:.2f}% of its saliency, less than {least:g}%"


def _row(offer: Offer, taken: bool, why_not: str) -> dict[str, Any]:
    worth, cost = offer.search.worth, offer.price
    return {
        "weight": offer.layer.name,
        "size": offer.search.axis.size,
        "total": offer.total,
        "free": worth.baseline if worth else math.nan,
        "gathered": worth.retained if worth else math.nan,
        "ideal": worth.ideal if worth else math.nan,
        "gain_percent": offer.gain,
        "calls": cost.calls,
        "bytes": cost.bytes,
        "index_bytes": cost.index_bytes,
        "microseconds": cost.microseconds,
        "layer_microseconds": cost.layer_microseconds,
        "taken": taken,
        "reason": "" if taken else why_not,
    }


def _without(layer: LayerWeight, reason: str) -> dict[str, Any]:
    """The row of a weight whose layer cannot have a gather."""
    size = layer.weight.shape[layer.channel_dim]
    return {"weight": layer.name, "size": size, "taken": False, "reason": reason}


def _with_gathered(frame: pd.DataFrame, taken: Sequence[Offer]) -> pd.DataFrame:
    """The rows of weights whose input channels were pinned, with what a gather made of them."""
    found = frame.copy()
    for offer in taken:
        row = found.index[(found["status"] == "pinned") & (found["consumers"] == (offer.layer.name,))]
        if (worth := offer.search.worth) is None or not len(row):
            continue
        found.loc[row, ["baseline", "retained", "ideal"]] = worth.baseline, worth.retained, worth.ideal
        found.loc[row, "efficacy"] = efficacy(worth.retained, worth.baseline, worth.ideal)
        found.loc[row, "seconds"] = offer.search.seconds
        found.loc[row, ["status", "reason"]] = "gathered", ""
    return found
