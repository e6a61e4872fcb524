"""Networks that are trained here: dense, pruned in one shot, and after the training is repeated with the masks."""

from __future__ import annotations

import copy
import functools
import time
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from sparselab.core.models import device_of, to_device
from sparselab.network.control import random_plan
from sparselab.reproduce.answers import Answers, answers
from sparselab.reproduce.section import Settings
from sparselab.reproduce.trials import loaded_task, run_trials
from sparselab.sweeps.trial import Trial
from sparselab.tasks import PruningTrial, Task, dense_baseline
from sparselab.training.sparsifier import Sparsifier

DENSE = "dense"
AS_TRAINED, RANDOM, PERMUTED = "as trained", "random order", "permuted"
CHANNELS = (AS_TRAINED, RANDOM, PERMUTED)


@dataclass(frozen=True)
class Comparison:
    """Which task is run, and how.

    ``dense_steps`` of training and ``steps`` of fine-tuning (``None``: what its recipes say).
    """

    task: str
    seeds: int
    patterns: tuple[str, ...] = ("2:4", "1:4", "1:8")
    dense_steps: int | None = None
    steps: int | None = None

    def cases(self, device: str = "cpu") -> list[dict[str, Any]]:
        """The trials on ``device``, seed by seed, so that a sweep that is stopped has whole seeds."""
        one_seed = [(DENSE, AS_TRAINED), *((pattern, channels) for pattern in self.patterns for channels in CHANNELS)]
        return [
            {
                "name": self.task,
                "pattern": pattern,
                "channels": channels,
                "seed": seed,
                "dense_steps": self.dense_steps,
                "steps": self.steps,
                "device": device,
            }
            for seed in range(self.seeds)
            for pattern, channels in one_seed
        ]


def compare(comparison: Comparison, settings: Settings) -> pd.DataFrame:
    """One row per trial. Raises ``FileNotFoundError`` or ``ModuleNotFoundError`` where the task's data are missing."""
    loaded_task(comparison.task)
    return run_trials(trial, settings, trials=comparison.cases(settings.device))


def trial(trial: Trial) -> dict[str, Any]:
    """Prune the dense network of ``seed``, re-estimate its batch norms, and repeat the training with its masks.

    A random order is the control for luck: every axis of the network in an order that ignores the weights. The dense
    network is trained on alike. ``one_shot_divergence`` is from the dense network's answers, before fine-tuning.
    """
    task = loaded_task(trial.name)
    model, dense = _dense(trial.name, trial.seed, trial.dense_steps, trial.device)
    model = copy.deepcopy(model)
    started = time.perf_counter()
    pruning = pruning_trial(task, model, trial.pattern, trial.channels, trial.seed, trial.steps)
    sparsifier = pruning.prune(task, model)
    if sparsifier is not None:
        pruning.recalibrate(task, model)
    one_shot = answers(task, model)
    pruning.finetune(task, model, sparsifier)
    headline = task.headline
    return {
        f"dense_{headline.name}": dense.score(headline),
        "retained_percent": retained_percent(sparsifier),
        f"one_shot_{headline.name}": one_shot.score(headline),
        "one_shot_divergence": one_shot.divergence_from(dense),
        f"finetuned_{headline.name}": answers(task, model).score(headline),
        "seconds": time.perf_counter() - started,
    }


@functools.lru_cache(maxsize=1)
def _dense(name: str, seed: int, steps: int | None, device: str) -> tuple[nn.Module, Answers]:
    """The dense network of a seed, which all its trials begin with, and its answers."""
    task = loaded_task(name)
    model, _ = dense_baseline(task, seed=seed, steps=steps, device=device)
    return model, answers(task, model)


def pruning_trial(
    task: Task, model: nn.Module, pattern: str, channels: str, seed: int, steps: int | None
) -> PruningTrial:
    """How the dense ``model`` is pruned with its ``channels`` as they are, permuted or in random order, and trained on.

    ``DENSE`` is the control that is not pruned. The batches of fine-tuning are other ones than those of training.
    """
    inputs = to_device(task.example_inputs, device_of(model))
    return PruningTrial(
        None if pattern == DENSE else pattern,
        permutation="auto" if channels == PERMUTED else None,
        plan=random_plan(model, inputs, seed) if channels == RANDOM else None,
        steps=steps,
        seed=seed,
        batches=seed + 1000,
    )


def retained_percent(sparsifier: Sparsifier | None) -> float:
    """The share of the magnitude of all sparse layers together that their masks kept."""
    if sparsifier is None:
        return 100.0
    kept = {layer.name: float(layer.weight.detach().abs().sum()) for layer in sparsifier.weights.layers}
    total = sum(kept[name] / sparsifier.weights.shares[name] for name in kept)
    return 100 * sum(kept.values()) / total


def paired(frame: pd.DataFrame, pattern: str, value: str, against: str) -> list[float]:
    """``value`` of the permuted network minus that with channels ``against``, for every task (``name``) and seed."""
    rows = frame[frame["pattern"] == pattern].pivot_table(index=["name", "seed"], columns="channels", values=value)
    difference: pd.Series[float] = (rows[PERMUTED] - rows[against]).dropna()
    return difference.tolist()
