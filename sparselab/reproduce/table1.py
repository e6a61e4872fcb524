"""Table 1: what escapes and larger sets of groups are worth, over 25 random matrices.

Also how often the optimum is found.
"""

from __future__ import annotations

import pandas as pd

from sparselab.reproduce.random_matrices import LOSS_OF_A_FLOAT, search_all
from sparselab.reproduce.section import Section, Settings, markdown_table, rows_of
from sparselab.reproduce.sources import LEGEND, MEASURED, MISSING, cell
from sparselab.reproduce.statistics import estimate

AUTHORS = (
    "random,1000",
    *(
        f"{search},{escapes}"
        for search in ("channel_swap", "stripe_groups,8", "stripe_groups,12")
        for escapes in (0, 100, 1000)
    ),
)
"""The rows of the paper's table."""

OURS = ("assignment", "anneal", "auto")
SLOW = ("stripe_groups,12,100", "stripe_groups,12,1000")  # ten seconds and more a matrix
SHAPE = (64, 128)
SMALL = (32, 16)
PROOF = "exhaustive"


def run(settings: Settings) -> Section:
    """The table, in quick form without the two slowest rows and with three matrices of the larger size."""
    strategies = [name for name in (*AUTHORS, *OURS) if settings.full or name not in SLOW]
    seeds = range(25 if settings.full else 3)
    large = search_all(settings, _trials(strategies, SHAPE, seeds))
    small = search_all(settings, _trials([PROOF, *strategies], SMALL, range(25)))
    table = summary(large, small)
    trials = pd.concat([large, small], ignore_index=True)
    return Section(
        "Table 1: escapes, larger sets of groups, and better searches",
        _text(table, len(seeds), settings.full),
        tables={"table1": table, "table1_trials": trials.drop(columns=["state", "error", "traceback", "versions"])},
        trial_seconds=float(trials["seconds_total"].sum()),
    )


def _trials(strategies: list[str], shape: tuple[int, int], seeds: range) -> list[dict[str, object]]:
    rows, channels = shape
    return [
        {"strategy": strategy, "rows": rows, "channels": channels, "seed": seed}
        for strategy in strategies
        for seed in seeds
    ]


def summary(large: pd.DataFrame, small: pd.DataFrame) -> pd.DataFrame:
    """One row per strategy and source: mean and standard deviation of efficacy, mean seconds.

    ``optima`` counts the small matrices on which a strategy's order retains what the proven one does.
    """
    proven = small[small["strategy"] == PROOF].set_index("seed")["retained"]
    rows: list[tuple[object, ...]] = []
    for strategy, found in large.groupby("strategy", sort=False):
        tried = small[small["strategy"] == strategy].set_index("seed")["retained"]
        reached = tried >= proven[tried.index] * (1 - LOSS_OF_A_FLOAT)
        interval = estimate(found["efficacy"])
        spread, seconds = found["efficacy"].std(), found["seconds"].mean()
        rows.append(
            (
                strategy,
                MEASURED,
                len(found),
                interval.mean,
                spread,
                interval.low,
                interval.high,
                seconds,
                reached.sum(),
                len(tried),
            )
        )
        if strategy in AUTHORS:
            rows.append((strategy, MISSING, *[float("nan")] * 8))
    columns = [
        "strategy",
        "source",
        "matrices",
        "efficacy",
        "spread",
        "low",
        "high",
        "seconds",
        "optima",
        "small_matrices",
    ]
    return pd.DataFrame(rows, columns=columns)


def _text(table: pd.DataFrame, matrices: int, full: bool) -> str:
    ours = table[table["source"] == MEASURED]
    theirs = {*table.loc[table["source"] == MISSING, "strategy"]}
    best_theirs = ours[ours["strategy"].isin(AUTHORS)].nlargest(1, "efficacy").iloc[0]
    auto = ours.set_index("strategy").loc["auto"]
    shown = pd.DataFrame(
        {
            "strategy": ours["strategy"],
            "efficacy": [f"{cell(row.efficacy)} ± {cell(row.spread)}" for row in rows_of(ours)],
            "seconds": [cell(seconds, ".3g") for seconds in ours["seconds"]],
            f"optimum found, {SMALL[0]} x {SMALL[1]}": [
                f"{row.optima:.0f} of {row.small_matrices:.0f}" for row in rows_of(ours)
            ],
            "the authors' efficacy": [cell(float("nan")) for _ in range(len(ours))],
            "a row of the paper": ["yes" if strategy in theirs else "no" for strategy in ours["strategy"]],
        }
    )
    left_out = (
        ""
        if full
        else (
            f" This is the quick form: {matrices} matrices of the larger size instead of 25, and without {' and '.join(SLOW)}, "
            "which take minutes."
        )
    )
    return f"""
**The paper** compares what escapes (a random move when no better one is left) and larger sets of groups buy, on random
matrices of {SHAPE[0]} rows x {SHAPE[1]} columns, numpy seeds 0 to 24, and counts optima at {SMALL[0]} x {SMALL[1]}. **Here** the same
matrices, with three more strategies ({", ".join(OURS)}), on a CPU; the optimum is proven by `{PROOF}`.{left_out}
The spread is the standard deviation over matrices. {LEGEND} The paper's own values of this table are not at hand.

{markdown_table(shown)}

**Same or different**: {_escapes(ours.set_index("strategy")["efficacy"])} `auto` reaches {auto.efficacy:.2f} in {auto.seconds:.2g} s;
the best row of the paper here is `{best_theirs.strategy}` with {best_theirs.efficacy:.2f} in {best_theirs.seconds:.2g} s.
"""


def _escapes(efficacy: pd.Series[float]) -> str:
    """What the strategies of the paper reach without escapes, and what the most escapes that were run add."""
    sentences = []
    for search in ("channel_swap", "stripe_groups,8", "stripe_groups,12"):
        most = max(escapes for escapes in (0, 100, 1000) if f"{search},{escapes}" in efficacy)
        start = efficacy[f"{search},0"]
        gain = f", {most} escapes add {efficacy[f'{search},{most}'] - start:.2f}" if most else ""
        sentences.append(f"`{search}` reaches {start:.2f}{gain}.")
    return " ".join(sentences)
