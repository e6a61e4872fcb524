"""Every layer of EfficientNet-Lite0: what patterns take from it, and what permuting its own channels wins back."""

from __future__ import annotations

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from sparselab import plots
from sparselab.core.layers import layer_weights
from sparselab.core.measures import lost_percent
from sparselab.core.weight_matrix import to_matrix
from sparselab.permutation import search_permutation, warm_up
from sparselab.reports import magnitude_report
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.tasks import efficientnet_lite0

PATTERNS = ("unstructured,0.5", "4:8", "2:4", "1:4")
STRATEGY = "auto"


def run(settings: Settings) -> Section:
    """The table and the two figures."""
    model = efficientnet_lite0()
    everything = magnitude_report(model, "2:4")
    table = permuted_layers(model, progress=settings.progress)
    losses = pd.concat(
        [magnitude_report(model, pattern).assign(pattern=pattern) for pattern in PATTERNS], ignore_index=True
    )
    # Unstructured masks fit anywhere; compare them on the layers that the others can take.
    losses = losses[losses["layer"].isin(table["layer"])]
    return Section(
        title="EfficientNet-Lite0, layer by layer",
        text=_text(losses, table, everything),
        tables={"layers": table, "layers_by_pattern": losses},
        figures={
            "layers": plots.loss_by_layer(losses),
            "layers_permuted": plots.efficacy_by_layer(table),
        },
    )


def permuted_layers(model: nn.Module, *, progress: bool = False) -> pd.DataFrame:
    """The 2:4 report of eligible layers, with each weight matrix's best order by ``STRATEGY`` searched on its own."""
    report = magnitude_report(model, "2:4")
    report = report[report["eligible"]].drop(columns=["eligible", "reason"]).reset_index(drop=True)
    wanted = set(report["layer"])
    matrices = [
        to_matrix(layer.weight.detach(), layer.channel_dim) for layer in layer_weights(model) if layer.name in wanted
    ]
    warm_up(STRATEGY)  # so that no layer's seconds include compiling
    results = [
        search_permutation(matrix, "2:4", strategy=STRATEGY)
        for matrix in tqdm(matrices, "searching permutations", disable=not progress, leave=False)
    ]
    return report.assign(
        permuted=[result.retained for result in results],
        permuted_lost_percent=[lost_percent(r.retained, total) for r, total in zip(results, report["total"])],
        ideal_lost_percent=lost_percent(report["ideal"], report["total"]),
        efficacy=[result.efficacy for result in results],
        seconds=[result.seconds for result in results],
    )


def _text(losses: pd.DataFrame, table: pd.DataFrame, everything: pd.DataFrame) -> str:
    whole = everything.attrs["whole_model"]
    by_pattern = losses.groupby("pattern", sort=False)[["total", "retained"]].sum()
    lost = lost_percent(by_pattern["retained"], by_pattern["total"])
    summary = pd.DataFrame({"pattern": lost.index, "magnitude lost, %": lost.to_numpy()})
    permuted, ideal = (lost_percent(table[name].sum(), table["total"].sum()) for name in ("permuted", "ideal"))
    skipped = everything[~everything["eligible"]].groupby("reason", sort=False).size()
    shown = table.rename(
        columns={"lost_percent": "lost, %", "permuted_lost_percent": "permuted, %", "ideal_lost_percent": "ideal, %"}
    )[["layer", "rows", "channels", "lost, %", "permuted, %", "ideal, %", "efficacy", "seconds"]]
    return f"""
EfficientNet-Lite0 with its ImageNet weights. {whole["eligible_layers"]} of its {whole["layers"]} layers can be pruned;
they hold {whole["eligible_weights"] / whole["weights"]:.1%} of the weights. The others cannot:
{"; ".join(f"{count} x {reason}" for reason, count in skipped.items())}.

{markdown_table(summary, {"magnitude lost, %": ".2f"})}

![magnitude lost per layer and pattern](layers.png)

**A first permutation.** Which channels share a group of four is an accident of training. Here each weight matrix's input
channels were put in a better order on its own (strategy `{STRATEGY}`): over all layers 2:4 then loses
{permuted:.2f}% of the magnitude instead of {whole["lost_percent"]:.2f}%; no order can get below {ideal:.2f}%. *Efficacy* is
the share of that way gone, in percent (Pool and Yu, NeurIPS 2021). In a network, layers must be permuted together; what
is left of this gain then is in the next section.

![magnitude lost before and after permutation](layers_permuted.png)

{markdown_table(shown, {"lost, %": ".2f", "permuted, %": ".2f", "ideal, %": ".2f", "efficacy": ".1f", "seconds": ".2f"})}
"""
