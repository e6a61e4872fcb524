"""Schedules side by side: the same dense networks pruned to 2:4 and 1:4 and trained on, each by its own rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.reproduce.trials import run_trials
from sparselab.sweeps.frames import history
from sparselab.tasks import get_task

TITLE = "Schedules"


@dataclass(frozen=True)
class Comparison:
    """Which task, how many ``seeds``, and how many ``steps`` of training under the masks."""

    task: str
    seeds: int
    steps: int
    kept: tuple[int, ...] = (2, 1)

    def trials(self) -> Iterator[dict[str, Any]]:
        """Pattern and schedule of every trial of one seed, the dense control first."""
        yield {"pattern": None, "schedule": "one_shot"}
        often = max(1, self.steps // 20)
        for n in self.kept:
            one_way, both_ways = f"{n}:4", f"m4n{n}_2d_best"
            for schedule in ("one_shot", f"recompute,{often}", f"gradual,0,{self.steps // 2}", "sr_ste"):
                yield {"pattern": one_way, "schedule": schedule}
            for schedule in ("one_shot", f"transposable,every={often}"):
                yield {"pattern": both_ways, "schedule": schedule}


QUICK = Comparison("digits", 1, 60, kept=(2,))
FULL = Comparison("fashion_mnist,residual", 3, 450)


def run(settings: Settings) -> Section:
    """One row per schedule and pattern; a task whose data are missing gets a sentence saying so."""
    comparison = FULL if settings.full else QUICK
    try:
        task = get_task(comparison.task)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        return Section(TITLE, f"Skipped: {error}.")
    table = compared(comparison, settings)
    return Section(TITLE, _text(task.name, comparison, table), {"schedules": table})


def compared(comparison: Comparison, settings: Settings) -> pd.DataFrame:
    """``pattern, schedule, pruned_top1, finetuned_top1, spread, moved_percent``: means over the seeds.

    ``spread`` is the standard deviation of ``finetuned_top1`` (NaN for one seed), ``moved_percent`` the share of mask
    entries that differ between the first masks and the last, a mean over layers (NaN where masks never changed).
    """
    trials = run_trials(
        comparison.task,
        settings,
        trials=comparison.trials(),
        seed=range(comparison.seeds),
        steps=comparison.steps,
        permutation=None,
        track_every=comparison.steps,
        device=settings.device,
    )
    trials = trials.merge(_moved(trials), on="key", how="left")
    trials["pattern"] = trials["pattern"].astype(object).where(trials["pattern"].notna(), "dense")
    groups = trials.groupby(["pattern", "schedule"], sort=False, observed=True)
    table = groups[["pruned_top1", "finetuned_top1"]].mean()
    table["spread"] = groups["finetuned_top1"].std()
    table["moved_percent"] = groups["moved_percent"].mean()
    return table.reset_index()


def _moved(trials: pd.DataFrame) -> pd.DataFrame:
    """``key, moved_percent`` of the trials whose masks changed."""
    series = history(trials)
    since = series[(series["tracker"] == "mask_churn") & (series["quantity"] == "since_first_percent")]
    last = since.sort_values("step").groupby(["key", "layer"], observed=True)["value"].last()
    return last.groupby("key").mean().rename("moved_percent").reset_index()


def _text(name: str, comparison: Comparison, table: pd.DataFrame) -> str:
    named = {"pruned_top1": "pruned", "finetuned_top1": "trained on", "moved_percent": "masks moved, %"}
    formats = {"pruned": ".2f", "trained on": ".2f", "spread": ".2f", "masks moved, %": ".1f"}
    seeds = "one seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    shown = table.rename(columns=named)
    if comparison.seeds == 1:
        shown = shown.drop(columns="spread")
    return f"""
**{name}**, top-1 in percent, {seeds}, {comparison.steps} steps of training under the masks from the same dense networks,
channels in the order in which they were trained. *Pruned* is right after the first masks, batch norm re-estimated. *Spread*
is the standard deviation over seeds. *Masks moved* is the share of entries in which the last masks differ from the first
(for `gradual`, whose first masks keep more, what its later ones take). `m4nN_2d_best` holds N of 4 in rows and columns.

{markdown_table(shown, formats)}
"""
