"""What a permutation did: a table, a plan, the measured difference."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sparselab.core.channel_order import ChannelOrder
from sparselab.core.moves import Indices
from sparselab.network.output_orders import OutputOrder, Suggestion
from sparselab.network.plan import Plan

COLUMNS = [
    *("axis", "size", "members", "consumers", "baseline", "retained", "ideal", "efficacy", "seconds"),
    *("status", "reason"),
]
GATHER_COLUMNS = [
    *("weight", "size", "total", "free", "gathered", "ideal", "gain_percent", "calls", "bytes", "index_bytes"),
    *("microseconds", "layer_microseconds", "taken", "reason"),
]
_IN_ORDER = ("permuted", "gathered", "own")


@dataclass(frozen=True, eq=False)
class PermutationReport:
    """What ``permute`` found, did and measured.

    ``frame`` has one row for every axis that an eligible weight reads, and one for every eligible
    weight whose input channels could not move: ``axis`` (its first tensor and dimension), ``size``
    (units that move), ``members`` (``"tensor:dim"``), ``consumers`` (weights that read it and will
    be pruned), ``baseline, retained, ideal`` (saliency before, after, and with no structure; NaN
    where nothing was searched), ``efficacy`` (percent), ``seconds``, ``status`` (``permuted``,
    ``kept``, ``pinned`` or ``rolled_back``; ``gathered`` or ``own`` where such orders were asked for)
    and ``reason``, which says why where an axis was not permuted.

    ``weights`` has one row for every eligible weight: ``weight, numel, status, reason``; a weight
    that reads several axes has the best of their statuses. ``plan`` moves another copy of the model
    in the same way. ``max_abs_error`` and ``max_rel_error`` compare outputs before and after, and
    ``tolerance`` is what rounding may explain; all three are NaN when nothing was verified.
    ``objective`` says what orders were searched for if not for saliency: then ``baseline``,
    ``retained`` and ``ideal`` are a constant less the error, a constant less what is left of it, and
    that constant, as shares of what each layer gives, and ``efficacy`` is the percent saved.
    ``untraceable`` says why the model could not be traced, else it is ``None``; an untraceable
    model was not changed. Neither was one where ``refused`` says why: some of its parameters
    (``unreached``) are used by no example.

    ``outputs`` says of every tensor that the model returns whether it had to stay as it was, and
    what became of it (``order_of``). ``suggestion`` is a choice of outputs that would free more of
    the weights, where all had to stay.
    """

    frame: pd.DataFrame
    weights: pd.DataFrame
    plan: Plan = field(default_factory=Plan)
    pattern: str = "2:4"
    max_abs_error: float = math.nan
    max_rel_error: float = math.nan
    tolerance: float = math.nan
    seconds: float = 0.0
    untraceable: str | None = None
    objective: str | None = None
    refused: str | None = None
    unreached: tuple[str, ...] = ()
    outputs: tuple[OutputOrder, ...] = ()
    suggestion: Suggestion | None = None
    orders: str = "free"
    gathers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=GATHER_COLUMNS))
    own: Mapping[str, ChannelOrder] = field(default_factory=dict)

    @property
    def taken(self) -> pd.DataFrame:
        """The rows of ``gathers`` that were taken."""
        return self.gathers[self.gathers["taken"].astype(bool)]

    @property
    def share_permuted(self) -> float:
        """The share of eligible weights, by size, whose input channels were permuted."""
        total = float(self.weights["numel"].sum())
        return float(self.weights.loc[self.weights["status"].isin(_IN_ORDER), "numel"].sum()) / total if total else 0.0

    @property
    def why_not(self) -> str:
        """Why eligible weights were not permuted: the reason that holds for most of them; empty if all were."""
        if self._stopped and not len(self.taken):
            return self._stopped
        left = self.weights[~self.weights["status"].isin(_IN_ORDER)]
        return str(left.groupby("reason")["numel"].sum().idxmax()) if len(left) else ""

    @property
    def differing(self) -> tuple[str, ...]:
        """The outputs that the model returns in another order now: none of those that were chosen."""
        return tuple(dict.fromkeys(output.name for output in self.outputs if output.reorderings))

    def order_of(self, output: str | int, dim: int | None = None) -> Indices:
        """The order of one dimension of an ``output``: what is at ``i`` now was at ``order[i]`` before.

        For another model that reads it: ``reader.weight[:, order]`` reads the channels as they come
        now. ``output`` is a name in ``outputs``. Without ``dim`` it is the only dimension that
        moved; an output that did not move has the order ``0, 1, 2, ...``. Raises ``ValueError`` for
        an unknown output, and where no dimension moved by itself.

        >>> import torch
        >>> from sparselab.network.permuting import permute
        >>> class Encoder(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body, self.head = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)
        ...     def forward(self, x):
        ...         hidden = self.body(x)
        ...         return {"hidden": hidden, "logits": self.head(hidden)}
        >>> model, x = Encoder(), torch.randn(2, 8)
        >>> before = model(x)["hidden"]
        >>> report = permute(model, x, outputs="logits")
        >>> torch.equal(model(x)["hidden"], before[:, report.order_of("hidden")])
        True
        """
        found = [each for each in self.outputs if each.name == str(output)]
        if not found:
            names = ", ".join(dict.fromkeys(repr(each.name) for each in self.outputs))
            raise ValueError(f"{output!r} is no output of the model; it returned {names or 'nothing'}")
        first, *others = [each.order(dim) for each in found]
        if any(not np.array_equal(first, other) for other in others):
            raise ValueError(f"{output!r} has another order in every example; permute with one of them")
        return first

    @property
    def _stopped(self) -> str | None:
        """Why nothing was done at all."""
        return self.untraceable or self.refused

    @property
    def retained_gain(self) -> float:
        """Retained saliency over all searched axes and gathers, after divided by before, minus 1."""
        searched = self.frame.dropna(subset=["baseline"])
        before = float(searched["baseline"].sum())
        pinned = {name for names in self.frame.loc[self.frame["status"] == "gathered", "consumers"] for name in names}
        beside = self.taken[~self.taken["weight"].isin(pinned)]  # the others have a row in the frame
        after = float(searched["retained"].sum()) + float((beside["gathered"] - beside["free"]).sum())
        return after / before - 1 if before else 0.0

    @property
    def _gain(self) -> str:
        """What was gained by what orders were searched for."""
        if self.objective is None:
            return f"retained saliency {100 * self.retained_gain:+.2f}%"
        searched = self.frame.dropna(subset=["baseline"])
        error, left = (float((searched["ideal"] - searched[one]).sum()) for one in ("baseline", "retained"))
        return f"{self.objective} {100 * (left / error - 1 if error else 0.0):+.2f}%"

    def __repr__(self) -> str:
        return f"<PermutationReport: {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        if self._stopped and not len(self.taken):
            return f"Nothing was permuted. {self._stopped}."
        counts = self.frame["status"].value_counts()
        said = ", ".join(f"{counts[s]} {s}" for s in (*_IN_ORDER, "kept", "pinned", "rolled_back") if s in counts)
        lines = [
            f"Channel permutation for {self.pattern}: {said or 'no eligible weights'}.",
            f"{100 * self.share_permuted:.1f}% of the eligible weights have their input channels permuted; "
            f"{self._gain} in {self.seconds:.1f} s.",
        ]
        lines += self._beside_free()
        if not math.isnan(self.max_rel_error):
            lines.append(
                f"Outputs before and after differ by {self.max_rel_error:.1e} relative "
                f"(rounding explains {self.tolerance:.0e})."
            )
        if self.differing:
            shown = ", ".join(self.differing[:4]) + (" ..." if len(self.differing) > 4 else "")
            lines.append(f"In another order than before: {shown} (order_of says in which).")
        if self.unreached:
            lines.append(f"Kept in their order, used by no example: {reprlib.repr([*self.unreached])[1:-1]}.")
        if self.suggestion is not None:
            lines.append(f"{self.suggestion}.")
        left = self.frame[self.frame["status"].isin(["pinned", "rolled_back"])]
        for reason, rows in list(left.groupby("reason", sort=False))[:5]:
            names = [name for consumers in rows["consumers"] for name in consumers]
            lines.append(f"  {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}: {reason}")
        return "\n".join(lines)

    def _beside_free(self) -> list[str]:
        """What there is to say of orders that are not free."""
        if self.orders == "own":
            return ["Every weight has an order of its own and nothing was moved: the limit. No kernel can run this."]
        if not len(self.gathers):
            return []
        taken = self.taken
        cost, layers = float(taken["microseconds"].sum()), float(taken["layer_microseconds"].sum())
        share = f", {100 * cost / layers:.0f}% of what those layers take" if layers else ""
        return [
            f"{len(taken)} of {len(self.gathers)} layers re-index their inputs: {cost:.0f} microseconds and "
            f"{taken['bytes'].sum() / 2**20:.2f} MiB for each run on the examples{share}."
        ]

    def _repr_html_(self) -> str:
        summary = "<br>".join(line.replace("&", "&amp;").replace("<", "&lt;") for line in str(self).splitlines())
        return f"<p>{summary}</p>{self.frame.to_html(max_rows=60, float_format='{:.4g}'.format)}"
