"""From what was found out about a network to its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sparselab.core.layers import LayerWeight
from sparselab.core.patterns import Pattern
from sparselab.network.analysis import Analysis
from sparselab.network.axes import reasons_of
from sparselab.network.named_axes import axis_members, axis_names
from sparselab.network.output_orders import Suggestion, output_orders, suggestion
from sparselab.network.plan import Plan
from sparselab.network.reach import UnreachedError
from sparselab.network.report import COLUMNS, PermutationReport
from sparselab.network.search_problems import Consumer
from sparselab.network.searching import AxisSearch, Searches
from sparselab.network.tracing import UntraceableError
from sparselab.network.verify import Verdict

_BEST_FIRST = ("permuted", "kept", "rolled_back", "pinned")
_WORTH = ("baseline", "retained", "ideal", "efficacy")
_UNKNOWN = dict.fromkeys(_WORTH, math.nan)


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found out about the eligible ``layers`` of a network.

    ``consumers`` are those whose weight the ``analysis`` knows. ``verdict`` is ``None`` when
    nothing was verified. ``stopped`` is the error that kept the model from being followed, if one
    did; then there is no analysis, and every layer is pinned for that reason. ``objective``: what
    orders were searched for if not for saliency.
    """

    pattern: Pattern
    layers: Sequence[LayerWeight]
    analysis: Analysis = field(default_factory=lambda: Analysis((), ()))
    consumers: Sequence[Consumer] = ()
    searches: Searches = field(default_factory=Searches)
    verdict: Verdict | None = None
    stopped: UntraceableError | UnreachedError | None = None
    objective: str | None = None

    def report(self, seconds: float) -> PermutationReport:
        """The report, of a permutation that took ``seconds``."""
        verdict, stopped = self.verdict, self.stopped
        unreached = stopped.names if isinstance(stopped, UnreachedError) else self.analysis.unreached
        return PermutationReport(
            self._axes(),
            self._weights(),
            Plan.from_orders(self.analysis, self.searches.orders),
            str(self.pattern),
            verdict.difference.absolute if verdict else math.nan,
            verdict.difference.relative if verdict else math.nan,
            verdict.tolerance if verdict else math.nan,
            seconds,
            str(stopped) if isinstance(stopped, UntraceableError) else None,
            self.objective,
            refused=str(stopped) if isinstance(stopped, UnreachedError) else None,
            unreached=unreached,
            outputs=output_orders(self.analysis, self.searches.orders),
            suggestion=self._suggestion(),
        )

    def _suggestion(self) -> Suggestion | None:
        """What a choice of outputs would free, where none was made."""
        if not all(output.chosen for output in self.analysis.outputs):
            return None
        _, m = self.pattern.require_nm("permute")
        return suggestion(self.analysis, self.consumers, m, sum(layer.weight.numel() for layer in self.layers))

    def _axes(self) -> pd.DataFrame:
        searches = self.searches.axes
        members = axis_members(self.analysis, [search.axis for search in searches])
        names = axis_names(members[search.axis] for search in searches)
        rows = [_axis_row(search, name, members[search.axis]) for search, name in zip(searches, names)]
        read = {consumer.name for search in searches for consumer in search.consumers}
        rows += [self._pinned_row(layer) for layer in self.layers if layer.name not in read]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _pinned_row(self, layer: LayerWeight) -> dict[str, Any]:
        """The row of a weight whose input channels stay; for 2d masks its rows may have moved."""
        return {
            "axis": f"{layer.name}:{layer.dimension}",
            "size": layer.weight.shape[layer.channel_dim],
            "members": (),
            "consumers": (layer.name,),
            **_UNKNOWN,
            "baseline": self.searches.before.get(layer.name, math.nan),
            "retained": self.searches.after.get(layer.name, math.nan),
            "seconds": 0.0,
            "status": "pinned",
            "reason": self._why_pinned(layer),
        }

    def _why_pinned(self, layer: LayerWeight) -> str:
        if self.stopped is not None:
            return str(self.stopped)
        members = [consumer.member for consumer in self.consumers if consumer.name == layer.name]
        reasons = [reason for member in members for reason in reasons_of(member.dims[layer.channel_dim])]
        return "; ".join(reasons) or "every index of it means something else"

    def _weights(self) -> pd.DataFrame:
        found: dict[str, tuple[str, str]] = {}
        for search in self.searches.axes:
            mine = (search.status, search.reason)
            for consumer in search.consumers:
                best = min(found.get(consumer.name, mine), mine, key=lambda it: _BEST_FIRST.index(it[0]))
                found[consumer.name] = best
        rows = []
        for layer in self.layers:
            status, reason = found.get(layer.name) or ("pinned", self._why_pinned(layer))
            rows.append((layer.name, layer.weight.numel(), status, reason))
        return pd.DataFrame(rows, columns=["weight", "numel", "status", "reason"])


def _axis_row(search: AxisSearch, name: str, members: tuple[str, ...]) -> dict[str, Any]:
    worth = search.worth
    return {
        "axis": name,
        "size": search.axis.size,
        "members": members,
        "consumers": tuple(consumer.name for consumer in search.consumers),
        **({column: getattr(worth, column) for column in _WORTH} if worth else _UNKNOWN),
        "seconds": search.seconds,
        "status": search.status,
        "reason": search.reason,
    }
