"""The recipe of the white paper (Mishra et al. 2021): train dense, prune 2:4, repeat the training, quantise to int8."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from sparselab.core.models import device_of, to_device
from sparselab.reports import check
from sparselab.reproduce.answers import answers
from sparselab.reproduce.int8 import quantise_int8
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.reproduce.sources import MEASURED
from sparselab.reproduce.statistics import estimate
from sparselab.reproduce.trained import CHANNELS, paired, pruning_trial
from sparselab.reproduce.trials import loaded_task, run_trials
from sparselab.sweeps.trial import Trial
from sparselab.tasks import Task, dense_baseline

STAGES = {
    "dense_top1": "dense",
    "dense_int8_top1": "dense, int8",
    "pruned_top1": "2:4, one shot",
    "finetuned_top1": "training repeated",
    "int8_top1": "int8",
}
_CALIBRATION = 8  # batches


@dataclass(frozen=True)
class Recipe:
    """Which task, how many seeds, and the steps of training and of repeating it (``None``: what its recipes say)."""

    task: str
    seeds: int
    dense_steps: int | None = None
    steps: int | None = None


FULL = Recipe("fashion_mnist,residual,epochs=1", 5)
QUICK = Recipe("digits", 1, 60, 30)


def run(settings: Settings) -> Section:
    """The accuracy of each stage, or what to do to get it where the data are missing."""
    title = "The white paper's recipe: prune, repeat the training, quantise"
    recipe = FULL if settings.full else QUICK
    try:
        loaded_task(recipe.task)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        return Section(title, f"Skipped: {error}.")
    steps = {"dense_steps": recipe.dense_steps, "steps": recipe.steps}
    shared = {"name": recipe.task, "pattern": "2:4", "device": settings.device, **steps}
    trials = [{**shared, "channels": channels, "seed": seed} for seed in range(recipe.seeds) for channels in CHANNELS]
    found = run_trials(trial, settings, trials=trials)
    table = found[["name", "pattern", "channels", "seed", *STAGES, "sparse_layers"]]
    return Section(
        title,
        _text(table, recipe, settings.full),
        tables={"whitepaper": table.assign(source=MEASURED)},
        trial_seconds=float(found["seconds_total"].sum()),
    )


def trial(trial: Trial) -> dict[str, Any]:
    """The task's headline at each stage, and how many layers are still 2:4 at the end."""
    task = loaded_task(trial.name)
    model, dense = dense_baseline(task, seed=trial.seed, steps=trial.dense_steps, device=trial.device)
    headline = task.headline.name
    found = {f"dense_{headline}": dense[headline], f"dense_int8_{headline}": _int8_score(task, copy.deepcopy(model))}
    pruning = pruning_trial(task, model, trial.pattern, trial.channels, trial.seed, trial.steps)
    sparsifier = pruning.prune(task, model)
    assert sparsifier is not None  # a pattern is given
    pruning.recalibrate(task, model)
    found[f"pruned_{headline}"] = answers(task, model).score(task.headline)
    pruning.finetune(task, model, sparsifier)
    found[f"finetuned_{headline}"] = answers(task, model).score(task.headline)
    layers = list(sparsifier.masks)
    sparsifier.finalize()
    found[f"int8_{headline}"] = _int8_score(task, model)
    weights = {name: weight for name, weight in model.state_dict().items() if name in layers}
    return {**found, "sparse_layers": int(check(weights, trial.pattern)["sparse"].sum())}


def _int8_score(task: Task, model: nn.Module) -> float:
    """The headline of ``model`` quantised in place, calibrated on training data."""
    size = task.recipe.batch_size
    indices = torch.split(torch.arange(_CALIBRATION * size), size)
    device = device_of(model)
    quantise_int8(model, (to_device(task.train_data[some], device) for some in indices))
    return answers(task, model).score(task.headline)


def _text(table: pd.DataFrame, recipe: Recipe, full: bool) -> str:
    rows = [
        (channels, *(str(estimate(mine[stage])) for stage in STAGES))
        for channels, mine in table.groupby("channels", sort=False)
    ]
    shown = markdown_table(pd.DataFrame(rows, columns=["channels", *STAGES.values()]))
    short = "" if full else " This is the quick form: a small task, both trainings stop early."
    layers = table["sparse_layers"]
    gained = {against: estimate(paired(table, "2:4", "int8_top1", against)) for against in CHANNELS[:2]}
    differences = ", ".join(f"minus {against} {difference}" for against, difference in gained.items())
    return f"""
**The paper** (Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378) trains a dense network, prunes it to 2:4 once, by
magnitude, repeats the training with the masks, and then quantises to int8. **Here** `{recipe.task}`, {recipe.seeds}
seed{"s" if recipe.seeds > 1 else ""}, top-1 in percent after each stage, for channels as trained, permuted, and in random order (the control).{short} int8 is
simulated: weights (a scale for each output) and inputs of layers (a scale each) are rounded to eight bits, sums are in float32.
Square brackets are 95% intervals. Everything was measured here; the paper's accuracies are not at hand.

{shown}

**Same or different**: after repeating the training, quantising changes top-1 by {(table["int8_top1"] - table["finetuned_top1"]).mean():+.2f}
points in the mean, beside {(table["dense_int8_top1"] - table["dense_top1"]).mean():+.2f} for the dense network. All {layers.min()} pruned layers are still
2:4 in int8. Permuted at the end, seed by seed: {differences}.
"""
