"""Top-1 of EfficientNet-Lite0 on labelled pictures: dense, 2:4, and 2:4 with batch norm re-estimated."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.tasks import LabelledPictures, efficientnet_lite0, top1
from sparselab.training.batchnorm import recalibrate_batchnorm
from sparselab.training.sparsifier import Sparsifier

TITLE = "Accuracy on labelled pictures"
PRUNED = ("_blocks*",)
"""The 1x1 convolutions of the blocks; stem, head and classifier stay dense."""


def run(settings: Settings) -> Section:
    """The table of accuracies, or what to do to get it where there are no pictures."""
    try:
        pictures = LabelledPictures.load(progress=settings.progress)
    except FileNotFoundError as error:
        return Section(TITLE, f"Skipped: {error}.")
    frame = accuracies(pictures, progress=settings.progress)
    text = f"""
{len(pictures)} labelled pictures ({LabelledPictures.folder().name}), no fine-tuning, one shot by magnitude; the 1x1
convolutions of the blocks are pruned. Batch norm statistics are re-estimated on the even pictures, accuracy is measured on
the odd {len(pictures) - len(pictures[::2])}. Without re-estimation a pruned network is close to guessing, whatever the mask:
compare patterns by the last column. The pictures probably come from the training set, so only differences mean something,
and at this number of pictures a difference below 4 points means little.

{markdown_table(frame, {"as is": ".1f", "batch norm re-estimated": ".1f"})}
"""
    return Section(TITLE, text, tables={"pictures": frame})


def accuracies(pictures: LabelledPictures, *, progress: bool = False) -> pd.DataFrame:
    """Top-1 in percent on the odd pictures: ``network, as is, batch norm re-estimated`` (on the even ones)."""
    dense = efficientnet_lite0()
    even, odd = pictures[::2], pictures[1::2]
    networks: dict[str, Callable[[], nn.Module]] = {
        "dense": lambda: copy.deepcopy(dense),
        "4:8": lambda: _pruned(dense, "4:8"),
        "2:4": lambda: _pruned(dense, "2:4"),
    }
    rows = []
    for name, make in tqdm(networks.items(), "top-1", disable=not progress, leave=False):
        model = make()
        as_is = top1(model, odd)
        recalibrate_batchnorm(model, even.batches())
        rows.append({"network": name, "as is": as_is, "batch norm re-estimated": top1(model, odd)})
    return pd.DataFrame(rows)


def _pruned(dense: nn.Module, pattern: str) -> nn.Module:
    model = copy.deepcopy(dense)
    Sparsifier(model, pattern, include=PRUNED).compute()
    return model
