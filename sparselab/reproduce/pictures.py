"""Top-1 of EfficientNet-Lite0 on labelled pictures: dense, 2:4, 2:4 randomly permuted, 2:4 permuted."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pandas as pd
from tqdm.auto import tqdm

from sparselab.network.control import random_plan
from sparselab.network.permuting import permute
from sparselab.reports import magnitude_report
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.tasks import LabelledPictures, efficientnet_lite0, top1
from sparselab.tasks.efficientnet_lite import scale_pixels
from sparselab.training.batchnorm import recalibrate_batchnorm
from sparselab.training.sparsifier import Sparsifier

TITLE = "Accuracy on labelled pictures"
RANDOM, PERMUTED = "2:4, randomly permuted", "2:4, permuted"
PRUNED = ("_blocks*",)
"""The 1x1 convolutions of the blocks; stem, head and classifier stay dense."""


def run(settings: Settings) -> Section:
    """The table of accuracies, or what to do to get it where there are no pictures."""
    try:
        pictures = LabelledPictures.load(progress=settings.progress)
    except FileNotFoundError as error:
        return Section(TITLE, f"Skipped: {error}.")
    frame = accuracies(pictures, seeds=range(5 if settings.full else 1), progress=settings.progress)
    means = frame.groupby("network", sort=False).mean(numeric_only=True).drop(columns="seed").reset_index()
    text = f"""
{len(pictures)} labelled pictures ({LabelledPictures.folder().name}), no fine-tuning, one shot by magnitude; the 1x1
convolutions of the blocks are pruned. Batch norm statistics are re-estimated on the even pictures, accuracy is measured on
the odd {len(pictures) - len(pictures[::2])}. Without re-estimation a pruned network is close to guessing, whatever the mask, so
compare by the last column. *Randomly permuted* is the control: every axis of the network in a random order
({frame["seed"].nunique()} seed{"s" if frame["seed"].nunique() > 1 else ""}). The pictures probably come from the training set, so
only differences mean something, and at this number of pictures a difference below 4 points means little.

{markdown_table(means, dict.fromkeys(means.columns[1:], ".1f"))}
"""
    return Section(TITLE, text, tables={"pictures": frame})


def accuracies(pictures: LabelledPictures, *, seeds: Iterable[int] = (0,), progress: bool = False) -> pd.DataFrame:
    """Top-1 in percent on the odd pictures, batch norm re-estimated on the even ones; a row a network and seed.

    Columns: ``network, seed, magnitude lost, as is, batch norm re-estimated``.
    """
    dense = efficientnet_lite0()
    example = scale_pixels(pictures.pixels[:1])
    even, odd = pictures[::2], pictures[1::2]
    trials = [("dense", 0), ("2:4", 0), *[(name, seed) for seed in seeds for name in (RANDOM, PERMUTED)]]
    rows = []
    for name, seed in tqdm(trials, "networks", disable=not progress, leave=False):
        model = copy.deepcopy(dense)
        if name == RANDOM:
            random_plan(model, example, seed).apply(model)
        if name == PERMUTED:
            permute(model, example, "2:4", include=PRUNED, seed=seed, verify=False)
        lost = 0.0
        if name != "dense":
            sparsifier = Sparsifier(model, "2:4", include=PRUNED)
            pruned = magnitude_report(model, "2:4").set_index("layer").loc[list(sparsifier.masks)]
            lost = 100 * (1 - pruned["retained"].sum() / pruned["total"].sum())
            sparsifier.compute()
        as_is = top1(model, odd)
        recalibrate_batchnorm(model, even.batches())
        rows.append((name, seed, lost, as_is, top1(model, odd)))
    return pd.DataFrame(rows, columns=["network", "seed", "magnitude lost", "as is", "batch norm re-estimated"])
