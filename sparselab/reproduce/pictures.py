"""EfficientNet-Lite0 with its ImageNet weights on labelled pictures: pruned in one shot, no training."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sparselab.network.control import random_plan
from sparselab.network.permuting import permute
from sparselab.reproduce.answers import Answers, pack
from sparselab.reproduce.section import Settings
from sparselab.reproduce.trained import AS_TRAINED, DENSE, PERMUTED, RANDOM, retained_percent
from sparselab.reproduce.trials import run_trials
from sparselab.sweeps.trial import Trial
from sparselab.tasks import LabelledPictures, PruningTrial, Task, efficientnet_lite0
from sparselab.tasks.efficientnet_lite import scale_pixels
from sparselab.tasks.imagenet_folder import Scaled
from sparselab.training.batchnorm import recalibrate_batchnorm

INCLUDE = ("_blocks*",)
"""The 1x1 convolutions of the blocks; stem, head and classifier stay dense."""


def prune_all(settings: Settings, trials: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each of ``trials``: ``pattern, channels, strategy, seed, every``.

    ``every`` says which pictures: one of every ``every``.

    Raises ``FileNotFoundError`` saying what was looked for where there are no pictures.
    """
    wanted = list(trials)
    for every in {trial["every"] for trial in wanted}:
        _pictures(every)
    return run_trials(trial, settings, trials=wanted)


def trial(trial: Trial) -> dict[str, Any]:
    """Prune, re-estimate batch norm on one half of the pictures, test on the other, and the other way round.

    ``right`` says (packed) which pictures were, so that two networks can be compared picture by
    picture; ``divergence`` is of the logits from the dense network's, whose batch norms were
    re-estimated alike.
    """
    pictures = _pictures(trial.every)
    model = efficientnet_lite0()
    example = scale_pixels(pictures.pixels[:1])
    if trial.channels == PERMUTED:
        strategy, seed = trial.strategy, trial.seed
        permute(model, example, trial.pattern, strategy=strategy, include=INCLUDE, seed=seed, verify=False)
    pruning = PruningTrial(
        None if trial.pattern == DENSE else trial.pattern,
        plan=random_plan(model, example, trial.seed) if trial.channels == RANDOM else None,
    )
    data = Scaled(pictures)
    task = Task("pictures", efficientnet_lite0, data, data, example_inputs=example, include=INCLUDE)
    sparsifier = pruning.prune(task, model)
    told = cross_answers(model, pictures)
    dense = told if trial.pattern == DENSE and trial.channels == AS_TRAINED else _dense(trial.every)
    return {
        "pictures": len(pictures),
        "retained_percent": retained_percent(sparsifier),
        task.headline.name: told.score(task.headline),
        "divergence": told.divergence_from(dense),
        "right": pack(told.right),
    }


def cross_answers(model: nn.Module, pictures: LabelledPictures) -> Answers:
    """What ``model`` says of each picture with batch norm statistics from the other half (even and odd) of them."""
    logits: list[Tensor] = [torch.empty(0)] * len(pictures)
    for half in (0, 1):
        fitted = copy.deepcopy(model)
        recalibrate_batchnorm(fitted, pictures[1 - half :: 2].batches())
        with torch.no_grad():
            told = torch.cat([fitted(inputs) for inputs, _ in pictures[half::2].batches()])
        logits[half::2] = list(told)
    return Answers(torch.stack(logits), pictures.labels)


@functools.lru_cache(maxsize=1)
def _pictures(every: int) -> LabelledPictures:
    return LabelledPictures.load()[::every]


@functools.lru_cache(maxsize=1)
def _dense(every: int) -> Answers:
    return cross_answers(efficientnet_lite0(), _pictures(every))
