"""EfficientNet-Lite0 permuted as a whole: every axis searched, the function measured before and after."""

from __future__ import annotations

import pandas as pd
import torch

import sparselab.plots as plots
from sparselab.core.measures import lost_percent
from sparselab.network.permuting import permute
from sparselab.network.report import PermutationReport
from sparselab.reports import magnitude_report
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.tasks import efficientnet_lite0
from sparselab.tasks.efficientnet_lite import PICTURE_SIZE


def run(settings: Settings) -> Section:
    """The table of axes and the figure of layers."""
    model = efficientnet_lite0()
    before = magnitude_report(model, "2:4")
    report = permute(model, torch.randn(1, 3, PICTURE_SIZE, PICTURE_SIZE), "2:4")
    layers = compare_layers(before, magnitude_report(model, "2:4"))
    axes = report.frame.drop(columns="members").assign(consumers=report.frame["consumers"].map(", ".join))
    return Section(
        title="The whole network permuted",
        text=_text(report, before, layers),
        tables={"network": axes, "network_layers": layers},
        figures={"network": plots.efficacy_by_layer(layers)},
    )


def compare_layers(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The eligible layers of two magnitude reports of one model side by side."""
    merged = before.merge(after[["layer", "retained", "lost_percent"]], on="layer", suffixes=("", "_after"))
    merged = merged[merged["eligible"]].reset_index(drop=True)
    return pd.DataFrame(
        {
            "layer": merged["layer"],
            "lost_percent": merged["lost_percent"],
            "permuted_lost_percent": merged["lost_percent_after"],
            "ideal_lost_percent": lost_percent(merged["ideal"], merged["total"]),
            "total": merged["total"],
            "retained": merged["retained"],
            "retained_after": merged["retained_after"],
        }
    )


def _text(report: PermutationReport, before: pd.DataFrame, layers: pd.DataFrame) -> str:
    lost = before.attrs["whole_model"]["lost_percent"]
    after = lost_percent(layers["retained_after"].sum(), layers["total"].sum())
    counts = report.weights["status"].value_counts()
    pinned = report.weights[report.weights["status"] != "permuted"]
    frame = report.frame.assign(consumers=[f"{len(c)}: {c[0]}" for c in report.frame["consumers"]])
    shown = frame[["axis", "size", "consumers", "efficacy", "seconds", "status"]]
    return f"""
One order for every set of channels that must move together: the channels of a residual stream with all convolutions that write
and read it, the channels inside a block with their depthwise convolution and batch norms. The sets are derived from the
traced graph, not from a list of layer types. {counts.get("permuted", 0)} of {len(report.weights)} eligible weights have their
input channels permuted{"" if pinned.empty else " (not: " + "; ".join(f"`{r.weight}`, {r.reason}" for r in pinned.itertuples()) + ")"}.
2:4 then loses {after:.2f}% of the magnitude instead of {lost:.2f}%, searched, applied and verified in
{report.seconds:.1f} s. In float64 the outputs before and after differ by at most {report.max_abs_error:.1e}
({report.max_rel_error:.1e} relative), which is rounding.

![magnitude lost by each layer before and after](network.png)

{markdown_table(shown, {"efficacy": ".1f", "seconds": ".2f"})}
"""
