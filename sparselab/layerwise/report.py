"""What pruning a model on calibration data did: a table, and a figure of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from sparselab.core import measures
from sparselab.core.channel_order import ChannelOrder
from sparselab.core.readable import why_no_arithmetic, why_unreadable
from sparselab.layerwise.chain import Chain
from sparselab.layerwise.choosing import Chosen
from sparselab.network.report import PermutationReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = [
    *("layer", "block", "shape", "pruner", "eligible", "reason", "density", "magnitude", "retained_percent"),
    *("dense_error_percent", "pruned_error_percent", "seconds"),
]


@dataclass(frozen=True, eq=False)
class PruneReport:
    """What ``prune`` did.

    ``frame`` has one row for every weight, in the order of the model: ``layer``, ``block`` (the name
    of its block, empty outside), ``shape``, ``pruner``, ``eligible`` and where it was not ``reason``,
    ``density`` (the share of its weights that are not zero now), ``magnitude`` (the sum of ``|w|``
    before), ``retained_percent`` (the share of it that lies where weights stayed), two reconstruction errors in percent
    (``sparselab.statistics.reconstruction_error``, over the first eighth of the batches) and the
    ``seconds`` that its pruner took. ``dense_error_percent`` is over the inputs that the layer has
    in the dense model, ``pruned_error_percent`` over those that it has in the pruned one.
    ``frame.attrs`` has ``protocol``.

    ``protocol`` says what was run, as plain texts and numbers; ``blocks`` which parts of the model
    were run by themselves, ``resumed_at`` how many of them were done by an earlier run.
    ``permutation`` is the report of the orders, where channels were permuted by this run. ``own`` are
    the orders of weights that were pruned in one of their own, by name.
    """

    frame: pd.DataFrame
    protocol: dict[str, Any]
    blocks: tuple[str, ...]
    permutation: PermutationReport | None = None
    resumed_at: int = 0
    seconds: float = math.nan
    own: Mapping[str, ChannelOrder] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """The names of the weights that were pruned: what a ``Sparsifier`` should ``include`` afterwards."""
        return list(self.frame[self.frame["eligible"]]["layer"])

    @property
    def density(self) -> float:
        """The share of the eligible weights that is not zero."""
        rows = self.frame[self.frame["eligible"]]
        sizes = rows["shape"].map(math.prod)
        return float((rows["density"] * sizes).sum() / sizes.sum()) if len(rows) else math.nan

    def plot(self) -> Figure:
        """The reconstruction errors of every weight (``sparselab.plots.error_by_layer``)."""
        from sparselab.plots import error_by_layer

        return error_by_layer(self.frame)

    def __repr__(self) -> str:
        return f"<PruneReport: {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        rows = self.frame[self.frame["eligible"]]
        blocks = f" in {len(self.blocks)} blocks" if len(self.blocks) > 1 else ""
        lines = [
            f"{len(rows)} of {len(self.frame)} weights pruned to {self.protocol['pattern']} by "
            f"{self.protocol['pruner']}{blocks}, density {self.density:.3f}, in {self.seconds:.1f} s.",
            f"Reconstruction error: median {rows['dense_error_percent'].median():.2f}% on the inputs of the dense "
            f"model, {rows['pruned_error_percent'].median():.2f}% on those of the pruned one.",
        ]
        if self.permutation is not None:
            lines.append(str(self.permutation))
        for reason, left in list(self.frame[~self.frame["eligible"]].groupby("reason", sort=False))[:5]:
            names = list(left["layer"])
            lines.append(f"  {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}: {reason}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        summary = "<br>".join(line.replace("&", "&amp;").replace("<", "&lt;") for line in str(self).splitlines())
        return f"<p>{summary}</p>{self.frame.to_html(max_rows=60, float_format='{:.4g}'.format)}"


def frame_of(
    weights: Sequence[Chosen], chain: Chain, rows: Mapping[str, Mapping[str, Any]], protocol: Mapping[str, Any]
) -> pd.DataFrame:
    """One row for every weight of the model; ``rows`` has what was found of those that were pruned."""
    frame = pd.DataFrame(
        [
            {
                "layer": each.layer.name,
                "block": "" if each.block is None else chain.blocks[each.block].name,
                "shape": tuple(each.layer.weight.shape),
                "pruner": protocol["pruner"],
                "eligible": each.layer.name in rows,
                "reason": "" if each.layer.name in rows else each.reason or "the data did not reach its layer",
                **(rows.get(each.layer.name) or _untouched(each.layer.weight.detach())),
            }
            for each in weights
        ],
        columns=COLUMNS,
    )
    frame.attrs["protocol"] = dict(protocol)
    return frame


def _untouched(weight: Tensor) -> dict[str, float]:
    """What there is to say of a weight that was not pruned; NaN where its values cannot be read."""
    readable = why_unreadable(weight) is None
    numbers = weight.double() if readable and why_no_arithmetic(weight) else weight
    return {
        "density": measures.density(numbers) if readable else math.nan,
        "magnitude": float(numbers.abs().sum(dtype=torch.float64)) if readable else math.nan,
        "retained_percent": 100.0,
        "dense_error_percent": math.nan,
        "pruned_error_percent": math.nan,
        "seconds": 0.0,
    }
