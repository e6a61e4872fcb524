"""Beyond the paper: what better search than its own is worth, in efficacy, against a bound, and in accuracy."""

from __future__ import annotations

import pandas as pd

from sparselab.reproduce import drawing, pictures
from sparselab.reproduce.answers import unpack
from sparselab.reproduce.random_matrices import search_all
from sparselab.reproduce.section import Section, Settings, markdown_table, rows_of
from sparselab.reproduce.sources import MEASURED
from sparselab.reproduce.statistics import estimate, mcnemar
from sparselab.reproduce.trained import AS_TRAINED, DENSE, PERMUTED, RANDOM

BOUND = "identity"  # a search that only proves how good an order could be
SEARCHES = (
    ("channel_swap,100", None),
    ("stripe_groups,8,100", None),
    ("stripe_groups,12,0", None),
    ("auto", None),
    ("auto", 5.0),
)
"""Strategies with their time limits, from the paper's to the best here."""

SHAPES = ((128, 64), (64, 128), (128, 128))
NETWORK_SEARCHES = ("channel_swap,0", "stripe_groups,8,100", "stripe_groups,12,0", "auto")


def run(settings: Settings) -> Section:
    """The table, the figure, and the accuracies where there are pictures."""
    seeds = range(5 if settings.full else 1)
    shapes = SHAPES if settings.full else SHAPES[:2]
    searches = [(BOUND, None), *(search for search in SEARCHES if settings.full or search != ("auto", 5.0))]
    found = search_all(
        settings,
        [
            {"strategy": strategy, "time_limit": limit, "rows": rows, "channels": channels, "seed": seed}
            for rows, channels in shapes
            for strategy, limit in searches
            for seed in seeds
        ],
    )
    table = against_bound(found)
    tables = {"beyond": table.assign(source=MEASURED)}
    seconds = float(found["seconds_total"].sum())
    try:
        networks = pictures.prune_all(settings, _network_trials(settings.full))
        tables["beyond_networks"] = networks[
            ["channels", "strategy", "pictures", "retained_percent", "top1", "divergence"]
        ]
        seconds += float(networks["seconds_total"].sum())
        accuracy = _accuracy(networks)
    except FileNotFoundError as error:
        accuracy = f"The accuracy that goes with it was skipped: {error}."
    return Section(
        "Beyond the paper: what better search is worth",
        _text(table, len(seeds), accuracy),
        tables=tables,
        figures={"beyond": drawing.efficacy_and_bound(table)},
        trial_seconds=seconds,
    )


def _network_trials(full: bool) -> list[dict[str, object]]:
    shared = {"seed": 0, "every": 1 if full else 4}
    controls = [(DENSE, AS_TRAINED, "identity"), ("2:4", AS_TRAINED, "identity"), ("2:4", RANDOM, "identity")]
    searched = [("2:4", PERMUTED, strategy) for strategy in (NETWORK_SEARCHES if full else ("channel_swap,0", "auto"))]
    return [
        {"pattern": pattern, "channels": channels, "strategy": strategy, **shared}
        for pattern, channels, strategy in controls + searched
    ]


def against_bound(found: pd.DataFrame) -> pd.DataFrame:
    """Each search's efficacy beside the bound of its matrix; ``of_bound_percent`` is the share that it reached."""
    on = ["rows", "channels", "seed"]
    bounds = found[found["strategy"] == BOUND].set_index(on)["bound"].rename("upper_bound")
    searched = found[found["strategy"] != BOUND].join(bounds, on=on)
    limit = searched["time_limit"].map(lambda seconds: f", {seconds:g} s" if seconds == seconds and seconds else "")
    return pd.DataFrame(
        {
            "strategy": searched["strategy"] + limit,
            **{name: searched[name] for name in (*on, "efficacy", "seconds", "upper_bound")},
            "of_bound_percent": 100 * searched["efficacy"] / searched["upper_bound"],
        }
    ).reset_index(drop=True)


def _accuracy(networks: pd.DataFrame) -> str:
    dense = networks[networks["pattern"] == DENSE].iloc[0]
    plain = networks[(networks["pattern"] != DENSE) & (networks["channels"] == AS_TRAINED)].iloc[0]
    rows = []
    for row in rows_of(networks):
        test = mcnemar(*(unpack(packed, row.pictures) for packed in (row.right, plain.right)))
        name = row.pattern if row.pattern == DENSE else f"{row.pattern}, {row.channels}"
        compared = "" if row.right == plain.right else f"+{test.only_first} -{test.only_second}, p = {test.p:.2g}"
        search = row.strategy if row.channels == PERMUTED else ""
        rows.append((name, search, row.retained_percent, row.top1, row.divergence, compared))
    columns = [
        "network",
        "search",
        "retained, %",
        "top-1",
        "KL to dense",
        "pictures won and lost against 2:4 as trained",
    ]
    table = markdown_table(
        pd.DataFrame(rows, columns=columns), {"retained, %": ".2f", "top-1": ".1f", "KL to dense": ".3f"}
    )
    return f"""
**What it is worth in accuracy**: EfficientNet-Lite0 on {dense.pictures} labelled pictures, no fine-tuning, batch norm re-estimated on
one half and tested on the other and the other way round. *Random order* is the control for luck.

{table}
"""


def _text(table: pd.DataFrame, seeds: int, accuracy: str) -> str:
    rows = []
    for (height, width, strategy), found in table.groupby(["rows", "channels", "strategy"], sort=False):
        rows.append(
            (
                f"{height} x {width}",
                strategy,
                str(estimate(found["efficacy"])),
                found["upper_bound"].mean(),
                found["of_bound_percent"].mean(),
                found["seconds"].mean(),
            )
        )
    columns = ["rows x columns", "strategy", "efficacy", "upper bound", "of it, %", "seconds"]
    formats = {"upper bound": ".2f", "of it, %": ".1f", "seconds": ".2g"}
    return f"""
**The paper** has no bound: how much of what is possible its strategies find is open there. **Here** random matrices (numpy seeds from 0, {seeds}
{"matrix" if seeds == 1 else "matrices"} a size; means with 95% intervals) with an upper bound from a linear program over all groups of four, which
no order can exceed; everything was measured here.

{markdown_table(pd.DataFrame(rows, columns=columns), formats)}

![efficacy of each strategy against the bound](beyond.png)

{accuracy.strip()}
"""
