"""Kinds of orders by name: free, gathered and own; what each of them does to a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from sparselab.core.layers import LayerWeight
from sparselab.core.registry import Registry
from sparselab.network.findings import Findings
from sparselab.network.gathering import Gathering
from sparselab.network.own_orders import OwnOrders
from sparselab.network.plan import Plan
from sparselab.network.report import PermutationReport
from sparselab.network.searching import SearchSettings
from sparselab.network.tracing import Pick
from sparselab.network.verify import Witness


@dataclass(frozen=True, eq=False)
class Request:
    """What ``permute`` was asked for: an order for the eligible ``layers`` of ``model``.

    ``free`` searches and verifies the free ones; ``verify`` is that of ``permute``, and ``pick`` has
    the outputs that have to stay as they are.
    """

    model: nn.Module
    examples: Any
    layers: Sequence[LayerWeight]
    settings: SearchSettings
    verify: bool | str
    pick: Pick
    free: Callable[[], PermutationReport]


class Orders(Protocol):
    """A kind of orders. Called, it says what is to be done; the model is as before."""

    @property
    def traces(self) -> bool:
        """Whether the model has to be run on examples."""

    def __call__(self, request: Request) -> PermutationReport:
        """The report of the orders that were found."""
        ...


ORDERS: Registry[Orders] = Registry(
    "kind of orders", {name: f"sparselab.network.orders:{name.title()}" for name in ("free", "gathered", "own")}
)


def as_orders(orders: str | Orders) -> Orders:
    """The kind of orders; ``ValueError`` for what is none."""
    kind = ORDERS.resolve(orders)
    if not callable(kind) or not hasattr(kind, "traces"):
        raise ValueError(f"orders is a name with options (valid: {', '.join(ORDERS.names())}), got {orders!r}")
    return kind


def require_strategy(kind: Orders, strategy: object) -> None:
    """Raise ``ValueError`` for orders that are to be searched where there is no ``strategy`` (``permutation=None``)."""
    if strategy is None and not isinstance(kind, Free):
        raise ValueError(
            f"orders={kind}: they are searched by a strategy, and permutation is None; give permutation='auto'"
        )


@dataclass(frozen=True)
class Free:
    """The layers before are permuted to match, so the orders cost nothing at run time."""

    traces = True

    def __call__(self, request: Request) -> PermutationReport:
        """The report of the free orders."""
        return request.free()


@dataclass(frozen=True)
class Gathered:
    """Free orders first; then a layer re-indexes its input where that is worth ``worth``.

    That is in percent of the weight's saliency: at the default a gather is taken where the weight
    retains 1% more of it. Raises ``ValueError`` for one that is negative or not finite.
    """

    worth: float = 1.0

    traces = True

    def __post_init__(self) -> None:
        if not 0 <= self.worth < float("inf"):
            raise ValueError(
                f"worth={self.worth:g} must be a percentage from 0 on: how much more of a weight's saliency a gather "
                "has to retain"
            )

    def __call__(self, request: Request) -> PermutationReport:
        """The report of the free orders, with the gathers that are worth it.

        Raises ``ValueError`` for orders that are searched for errors: a gather is worth saliency.
        """
        if (objective := request.settings.objective) is not None:
            raise ValueError(
                f"objective={objective!r}: what a gather is worth is counted in saliency; give a saliency in its place, "
                "or orders='free'"
            )
        report = request.free()
        started = time.perf_counter()
        found = Gathering.of(request.model, request.examples, request.layers, request.settings, report)
        taken, verdict = found.worth(self.worth), None
        wanted = list(taken)
        if request.verify and taken:
            copied, seed = request.verify is True, request.settings.seed
            witness = Witness(request.model, request.examples, None, seed, copied=copied, pick=request.pick)
            taken, verdict = found.verified(witness, wanted)
        blamed = [offer for offer in wanted if offer not in taken]
        return found.reported(taken, self.worth, blamed, verdict, started)


@dataclass(frozen=True)
class Own:
    """Every weight has an order of its own, and nothing is moved: masks are scattered back.

    The limit of what an order can win, and what most papers report. No kernel can run such masks.
    """

    traces = False

    def __call__(self, request: Request) -> PermutationReport:
        """The report of the orders; its plan moves nothing."""
        started = time.perf_counter()
        found = OwnOrders.search(request.layers, request.settings)
        findings = Findings(request.settings.pattern, request.layers, found.analysis, found.consumers, found.searches)
        report = findings.report(time.perf_counter() - started)
        own = {"permuted": "own"}
        return replace(
            report,
            frame=report.frame.replace({"status": own}),
            weights=report.weights.replace({"status": own}),
            plan=Plan(),
            own=found.by_weight,
            orders="own",
        )
