"""Figure 3: is an order with more efficacy a network with more accuracy?"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from sparselab.core.measures import efficacy
from sparselab.core.models import device_of, to_device
from sparselab.network.permuting import permute
from sparselab.network.plan import Plan
from sparselab.reports import magnitude_report
from sparselab.reproduce import drawing
from sparselab.reproduce.answers import answers
from sparselab.reproduce.partway import plan_partway
from sparselab.reproduce.section import Section, Settings, markdown_table, rows_of
from sparselab.reproduce.sources import MEASURED
from sparselab.reproduce.statistics import rank_correlation
from sparselab.reproduce.trained import AS_TRAINED, pruning_trial
from sparselab.reproduce.trials import loaded_task, run_trials
from sparselab.sweeps.trial import Trial
from sparselab.tasks import Task, dense_baseline

SHARES = np.linspace(0, 1, 41)
"""The parts of the way at which efficacy is looked at."""

_ROUNDING = 1e-4  # relative: float32 sums in another order


@dataclass(frozen=True)
class Walk:
    """Networks, seeds and ``steps`` from the default order to the best.

    ``dense_steps`` and ``finetuning`` are steps of training.
    """

    names: tuple[str, ...]
    seeds: int
    steps: int
    finetuning: int
    dense_steps: int | None = None
    patterns: tuple[str, ...] = ("2:4", "1:8")

    def trials(self, device: str = "cpu") -> list[dict[str, Any]]:
        """One for every order, on ``device``."""
        shared = {"device": device, "steps": self.steps, "finetuning": self.finetuning, "dense_steps": self.dense_steps}
        return [
            {"name": name, "pattern": pattern, "seed": seed, "step": step, **shared}
            for seed in range(self.seeds)
            for name in self.names
            for pattern in self.patterns
            for step in range(self.steps + 1)
        ]


FULL = Walk(tuple(f"fashion_mnist,{network},epochs=1" for network in ("plain", "depthwise", "residual")), 2, 5, 300)
QUICK = Walk(("fashion_mnist,depthwise,held_out=2000",), 1, 3, 30, 80)


def run(settings: Settings) -> Section:
    """The figure and the correlations, or what to do to get them where the data are missing."""
    title = "Figure 3: efficacy and accuracy"
    walk = FULL if settings.full else QUICK
    try:
        for name in walk.names:
            loaded_task(name)
    except FileNotFoundError as error:
        return Section(title, f"Skipped: {error}.")
    found = run_trials(trial, settings, trials=walk.trials(settings.device))
    table = found[["name", "pattern", "seed", "step", "share", "efficacy", "pruned_top1", "finetuned_top1"]]
    return Section(
        title,
        _text(table, walk, settings.full),
        tables={"figure3": table.assign(source=MEASURED), "figure3_correlations": correlations(table)},
        figures={"figure3": drawing.efficacy_against_accuracy(table)},
        trial_seconds=float(found["seconds_total"].sum()),
    )


def trial(trial: Trial) -> dict[str, Any]:
    """The dense network, its channels part of the way to the best order, pruned, then fine-tuned.

    They are ``step`` of ``steps`` on that way.
    """
    task = loaded_task(trial.name)
    model, plan, efficacies = _way(trial.name, trial.pattern, trial.seed, trial.dense_steps, trial.device)
    model = copy.deepcopy(model)
    share, reached = equal_steps(efficacies, trial.steps)[trial.step]
    apply_unchanged(plan_partway(plan, share), model, task)
    # The same batches at each step: what differs is the order alone.
    pruning = pruning_trial(task, model, trial.pattern, AS_TRAINED, trial.seed, trial.finetuning)
    sparsifier = pruning.prune(task, model)
    pruning.recalibrate(task, model)
    headline, pruned = task.headline, answers(task, model)
    pruning.finetune(task, model, sparsifier)
    return {
        "share": share,
        "efficacy": reached,
        f"pruned_{headline.name}": pruned.score(headline),
        f"finetuned_{headline.name}": answers(task, model).score(headline),
    }


@functools.lru_cache(maxsize=1)
def _way(
    name: str, pattern: str, seed: int, dense_steps: int | None, device: str
) -> tuple[nn.Module, Plan, NDArray[np.float64]]:
    """The dense network of a seed, the plan to its best order, and the efficacies on the way.

    The best order is the best one found.
    """
    task = loaded_task(name)
    model, _ = dense_baseline(task, seed=seed, steps=dense_steps, device=device)
    inputs = to_device(task.example_inputs, torch.device(device))
    report = permute(copy.deepcopy(model), inputs, pattern, include=task.include, seed=seed)
    return model, report.plan, efficacies_along(model, task, report.plan, pattern)


def efficacies_along(model: nn.Module, task: Task, plan: Plan, pattern: str) -> NDArray[np.float64]:
    """The efficacy after each of ``SHARES`` of the way to ``plan``, of all pruned layers together."""
    start = _pruned_layers(model, task, pattern)
    baseline, ideal = float(start["retained"].sum()), float(start["ideal"].sum())
    found = []
    for share in SHARES:
        moved = copy.deepcopy(model)
        plan_partway(plan, share).apply(moved)
        found.append(efficacy(float(_pruned_layers(moved, task, pattern)["retained"].sum()), baseline, ideal))
    return np.array(found)


def equal_steps(efficacies: NDArray[np.float64], steps: int) -> list[tuple[float, float]]:
    """Those of ``SHARES`` whose efficacies are nearest to ``steps`` equal steps, each with its efficacy.

    The first is 0 and the last 1. Efficacy need not rise all the way.
    """
    wanted = np.linspace(0, efficacies[-1], steps + 1)
    nearest = [int(np.abs(efficacies - target).argmin()) for target in wanted]
    nearest[0], nearest[-1] = 0, len(SHARES) - 1
    return [(float(SHARES[index]), float(efficacies[index])) for index in nearest]


def _pruned_layers(model: nn.Module, task: Task, pattern: str) -> pd.DataFrame:
    if task.include is not None:
        raise ValueError(f"{task.name} prunes only {task.include}; efficacy along the way is counted over all layers")
    report = magnitude_report(model, pattern)
    return report[report["eligible"]]


def apply_unchanged(plan: Plan, model: nn.Module, task: Task) -> None:
    """Apply ``plan``; ``RuntimeError`` where that changes the answers by more than rounding."""
    device = device_of(model)
    inputs, _ = to_device(task.eval_data[torch.arange(min(64, len(task.eval_data)))], device)
    with torch.no_grad():
        before = model(inputs)
        plan.apply(model)
        difference = float((model(inputs) - before).abs().max() / before.abs().max())
    if difference > _ROUNDING:
        raise RuntimeError(
            f"{task.name}: an order partway changed the outputs by {difference:.1e}; it is not a symmetry"
        )


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of efficacy with top-1 within the walks of each pattern, before and after fine-tuning."""
    rows = []
    for pattern, walks in table.groupby("pattern", sort=False):
        runs = [walk for _, walk in walks.groupby(["name", "seed"], sort=False)]
        for phase, value in (("pruned", "pruned_top1"), ("fine-tuned", "finetuned_top1")):
            found = rank_correlation([run["efficacy"] for run in runs], [run[value] for run in runs])
            gained = np.mean([run[value].iloc[-1] - run[value].iloc[0] for run in runs])
            rows.append((pattern, phase, found.rho, found.p, found.runs, gained, MEASURED))
    return pd.DataFrame(rows, columns=["pattern", "phase", "rho", "p", "walks", "gained", "source"])


def _text(table: pd.DataFrame, walk: Walk, full: bool) -> str:
    found = correlations(table)
    shown = found.drop(columns="source").rename(columns={"gained": "top-1, best order minus default"})
    networks = ", ".join(f"`{name}`" for name in walk.names)
    short = (
        ""
        if full
        else " This is the quick form: one network, one seed, few steps; with so few points hardly anything can be told from chance."
    )
    told = [f"{row.pattern}, {row.phase}" for row in rows_of(found) if row.p < 0.05 and row.rho > 0]
    return f"""
**The paper** moves groups of channels step by step from the default order to the best, and sets accuracy against efficacy.
**Here** the same with swaps: {walk.steps + 1} orders that divide the efficacy into steps as equal as the way allows, for {networks}, {walk.seeds}
seed{"s" if walk.seeds > 1 else ""}; at each one the network is pruned, its batch norms re-estimated, measured, trained on for {walk.finetuning} steps with the same
batches, and measured again.{short} Everything was measured here; the paper's points are not at hand.

![top-1 gained against efficacy](figure3.png)

{markdown_table(shown, {"rho": ".2f", "p": ".2g", "top-1, best order minus default": "+.2f"})}

*rho* is Spearman's rank correlation within each walk (one network, one seed), averaged; *p* by shuffling within walks, so that
differences between networks are no evidence.

**Same or different**: accuracy rises with efficacy beyond chance for {"; ".join(told) if told else "none of them"}.
"""
