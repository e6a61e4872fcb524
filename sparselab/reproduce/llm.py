"""A real decoder pruned in one shot: which pruner, which pattern, which orders, how much calibration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import nn

from sparselab.core.layers import Names, layer_weights
from sparselab.core.models import device_of, evaluating, to_device
from sparselab.layerwise import PruneReport
from sparselab.metrics import Perplexity
from sparselab.network.control import random_plan
from sparselab.reproduce.drawing import perplexity_by_calibration
from sparselab.reproduce.int8 import round_weights
from sparselab.reproduce.llm_tables import methods_text, recovery_text
from sparselab.reproduce.section import Section, Settings
from sparselab.reproduce.sources import MEASURED
from sparselab.reproduce.trained import AS_TRAINED, DENSE, PERMUTED, RANDOM
from sparselab.reproduce.trials import loaded_task, run_trials
from sparselab.sweeps.trial import Trial
from sparselab.tasks import PruningTrial, Task

TITLE = "A language model in one shot"
SMOLLM2 = "smollm2,loss=distil"
PRUNERS = ("magnitude", "wanda", "ria", "sparsegpt", "admm", "alps")
BY_DEFINITION = ("wanda", "ria")
"""These score by the inputs that a layer has in the dense model; the others prune in sequence."""


@dataclass(frozen=True)
class Comparison:
    """Which ``pruners`` are compared on the task ``name``, at which ``patterns``, ``channels`` and calibration sizes.

    Each with the calibration of every one of ``seeds`` (0: the first windows, others: drawn), and
    without or with some ``steps`` of recovery.
    """

    name: str = SMOLLM2
    pruners: Sequence[str] = PRUNERS
    patterns: Sequence[str] = ("2:4",)
    channels: Sequence[str] = (AS_TRAINED,)
    windows: Sequence[int] = (16,)
    seeds: int = 3
    steps: Sequence[int] = (0,)

    def cases(self, device: str) -> Iterator[dict[str, Any]]:
        """Its trials, seed by seed; one of each kind that the calibration does not change, the dense control first.

        No order is better than another for what is not structured along the channels.
        """
        shared = {"name": self.name, "device": device}
        yield {
            **shared,
            "pattern": DENSE,
            "pruner": "",
            "channels": AS_TRAINED,
            "calibration": 0,
            "steps": 0,
            "seed": 0,
        }
        each = product(range(self.seeds), self.windows, self.patterns, self.pruners, self.channels, self.steps)
        for seed, windows, pattern, pruner, channels, steps in each:
            told = pruner != "magnitude" or (seed == 0 and windows == self.windows[0])
            ordered = channels == AS_TRAINED or not pattern.startswith("unstructured")
            if told and ordered:
                how = {"pattern": pattern, "pruner": pruner, "channels": channels}
                yield {**shared, **how, "calibration": windows, "steps": steps, "seed": seed}


FULL = (
    Comparison(patterns=("2:4", "4:8", "1:4", "unstructured,0.5"), channels=(AS_TRAINED, PERMUTED)),
    Comparison(pruners=("wanda", "sparsegpt"), channels=(RANDOM,)),
    Comparison("smollm2,loss=distil,text=python", ("wanda", "sparsegpt"), channels=(AS_TRAINED, PERMUTED)),
    Comparison(pruners=("wanda", "sparsegpt", "admm"), windows=(4, 8, 16, 32, 64, 128)),
    Comparison(pruners=("sparsegpt",), steps=(30, 100, 300), seeds=1),
)
QUICK = (
    Comparison("smollm2,loss=distil,windows=2,context=256", ("magnitude", "wanda", "sparsegpt"), windows=(4,), seeds=1),
)


def run(settings: Settings) -> Section:
    """The table of methods, perplexity by calibration size and by minutes of recovery, or what is missing for them."""
    comparisons = FULL if settings.full else QUICK
    try:
        task = loaded_task(comparisons[0].name)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        return Section(TITLE, f"**Skipped**: {error}.")
    frame = trials(comparisons, settings)
    by_size = calibration_sizes(frame, comparisons[0].name)
    text = [methods_text(frame, full=settings.full)]
    figures = {}
    if by_size["calibration"].nunique() > 1:
        figures["llm_calibration"] = perplexity_by_calibration(by_size, str(task.protocol))
        text.append(f"![perplexity against the size of the calibration](llm_calibration.png)\n\n{task.protocol}.")
    if (frame["steps"] > 0).any():
        text.append(recovery_text(frame))
    seconds = float(frame["seconds_total"].sum())
    return Section(TITLE, "\n\n".join(text), {"llm": frame.assign(source=MEASURED)}, figures, seconds)


def trials(comparisons: Sequence[Comparison], settings: Settings) -> pd.DataFrame:
    """One row per trial of all ``comparisons``, each trial once."""
    cases = [case for comparison in comparisons for case in comparison.cases(settings.device)]
    unique = {tuple(case.items()): case for case in cases}
    frame = run_trials(trial, settings, trials=list(unique.values()))
    return frame.drop(columns=["state", "error", "traceback", "key"])


def calibration_sizes(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The trials on ``name`` that differ in the calibration only: 2:4 as trained, without recovery."""
    alike = (frame["pattern"] == "2:4") & (frame["channels"] == AS_TRAINED) & (frame["steps"] == 0)
    return frame[alike & (frame["name"] == name) & (frame["pruner"] != "magnitude")]


def trial(trial: Trial) -> dict[str, Any]:
    """Prune, recover if so told, and foretell the text; then the same with the weights rounded to int8.

    ``nats`` are the mean cross-entropies of the windows, which paired comparisons are made of. The
    protocol of the task, the pruner with its options and whether it prunes in sequence stand beside.
    """
    task = loaded_task(trial.name)
    model = task.model().to(trial.device)
    pruning = _pruning(task, model, trial)
    report = pruning.layerwise(task, model)
    found: dict[str, Any] = {}
    if report is not None and trial.steps:
        trained = pruning.finetune(task, model, pruning.sparsifier(task, model, report))
        found["seconds_recovery"] = trained.seconds
    nats = window_nats(task, model)
    found = {"perplexity": math.exp(sum(nats) / len(nats)), **found, **_about(report, pruning)}
    sparse = _pruned(task, model)
    density = sum(int(each.count_nonzero()) for each in sparse) / sum(each.numel() for each in sparse)
    round_weights(sparse)
    rounded = window_nats(task, model)
    found["int8_perplexity"] = math.exp(sum(rounded) / len(rounded))
    packed = " ".join(f"{each:.6f}" for each in nats)
    return {**found, "density": density, "nats": packed, **dataclasses.asdict(task.protocol)}


def _pruning(task: Task, model: nn.Module, trial: Trial) -> PruningTrial:
    if trial.pattern == DENSE:
        return PruningTrial(None, steps=0)
    inputs = to_device(task.example_inputs, torch.device(trial.device))
    return PruningTrial(
        trial.pattern,
        permutation="auto" if trial.channels == PERMUTED else None,
        plan=random_plan(model, inputs, trial.seed) if trial.channels == RANDOM else None,
        pruner=trial.pruner,
        calibration=trial.calibration,
        sequential=trial.pruner not in BY_DEFINITION,
        steps=trial.steps,
        seed=trial.seed,
        keep_pruned=False,
    )


def _about(report: PruneReport | None, pruning: PruningTrial) -> dict[str, Any]:
    if report is None:
        return {}
    errors = report.frame[report.frame["eligible"]]["dense_error_percent"]
    return {
        "pruner_options": report.protocol["pruner_options"],
        "sequential": pruning.sequential,
        "dense_error_percent": float(errors.median()),
        "seconds_prune": report.seconds,
    }


def window_nats(task: Task, model: nn.Module) -> list[float]:
    """The mean cross-entropy of the next token in every window of the task's evaluation data, in nats."""
    found = []
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        for index in range(len(task.eval_data)):
            total, tokens = Perplexity().sums(model, to_device(task.eval_data[torch.tensor([index])], device))
            found.append(total / tokens)
    return found


def _pruned(task: Task, model: nn.Module) -> list[torch.Tensor]:
    """The weights that the task has pruned, or would have."""
    names = Names.of(task.include, None)
    return [layer.weight.detach() for layer in layer_weights(model) if names.why_not(layer) is None]
