"""Table 3: what the strategies find and how long they take as matrices grow."""

from __future__ import annotations

import pandas as pd

from sparselab import plots
from sparselab.reproduce.random_matrices import search_all, why_no_gpu
from sparselab.reproduce.section import Section, Settings, markdown_table, rows_of
from sparselab.reproduce.sources import LEGEND, MEASURED, MISSING, cell

SHAPES = (*((rows, columns) for columns in (32, 64, 128, 256) for rows in (columns, 2 * columns)), (2048, 2048))
QUICK_SHAPES = SHAPES[:5]
STRATEGIES = {
    "random,1000": 2048,
    "channel_swap,0": 2048,
    "channel_swap,100": 256,
    "stripe_groups,8,0": 2048,
    "stripe_groups,8,100": 256,
    "stripe_groups,12,0": 256,
    "assignment": 2048,
    "auto": 2048,
}
"""The strategies, and the most columns that each is run at: above, one matrix would take many minutes."""

MEASURES = ["rows", "channels", "seed", "efficacy", "seconds"]


def run(settings: Settings) -> Section:
    """The table and the figure of quality against time."""
    shapes = SHAPES if settings.full else QUICK_SHAPES
    no_gpu = why_no_gpu()
    trials = [
        {"strategy": strategy, "rows": rows, "channels": columns, "seed": 1, "search_backend": backend}
        for backend in ("cpu", *(() if no_gpu else ("cuda",)))
        for rows, columns in shapes
        for strategy, most in STRATEGIES.items()
        if columns <= most
    ]
    found = search_all(settings, trials)
    table = found[["strategy", *MEASURES]].assign(device=found["search_backend"], source=MEASURED)
    if no_gpu:
        nothing = table.assign(device="cuda", efficacy=float("nan"), seconds=float("nan"), source=MISSING)
        table = pd.concat([table, nothing], ignore_index=True)
    drawn = table[(table["device"] == "cpu") & (table["channels"] > 32) & (table["strategy"] != "random,1000")]
    return Section(
        "Table 3: runtime",
        _text(table, no_gpu, settings.full),
        tables={"table3": table},
        figures={"table3": plots.search_pareto(drawn)},
        trial_seconds=float(found["seconds_total"].sum()),
    )


def _text(table: pd.DataFrame, no_gpu: str | None, full: bool) -> str:
    short = "" if full else " This is the quick form: the larger sizes are left out."
    gpu = f"There is no GPU column: {no_gpu}." if no_gpu else f"On the GPU:\n\n{_shown(table, 'cuda')}"
    return f"""
**The paper** gives runtime and efficacy for growing matrices, on one V100. **Here** rows x columns as in the paper, one random
matrix a size (numpy seed 1), efficacy and seconds on a CPU.{short} The paper's own values for these sizes are not at hand (those of its
code's README are in the part `listing`). {LEGEND}

{_shown(table, "cpu")}

{gpu}

![efficacy against seconds, a panel a size](table3.png)

**Same or different**: that cannot be said without the paper's values, and a CPU's seconds are not a V100's; what the authors' own code
takes on a CPU is in the listing. n/a: not run, for it would take many minutes.
"""


def _shown(table: pd.DataFrame, device: str) -> str:
    mine = table[table["device"] == device]
    text = [
        f"{cell(row.efficacy, '.1f', row.source)} in {cell(row.seconds, '.2g', row.source)} s" for row in rows_of(mine)
    ]
    shape = [f"{row.rows} x {row.channels}" for row in rows_of(mine)]
    wide = mine.assign(text=text, shape=shape).pivot(index="strategy", columns="shape", values="text")
    wide = wide.reindex(index=list(STRATEGIES), columns=list(dict.fromkeys(shape))).fillna(cell(float("nan")))
    return markdown_table(wide.reset_index())
