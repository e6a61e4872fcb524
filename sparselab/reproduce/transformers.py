"""MiniLM, a transformer with real weights: permuted as a whole, pruned by three saliencies, fine-tuned."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from sparselab.core.models import to_device
from sparselab.metrics.classification import predicted
from sparselab.network.permuting import permute
from sparselab.network.report import PermutationReport
from sparselab.reproduce.answers import answers
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.reproduce.trials import run_trials
from sparselab.tasks import Task, dense_baseline, get_task

TITLE = "A transformer"
CHANNELS = {None: "as trained", "auto": "permuted"}


@dataclass(frozen=True)
class Comparison:
    """Which task, with how many optimizer ``steps`` of fine-tuning under the masks, over how many ``seeds``."""

    task: str = "sentiment,epochs=0.5,held_out=1000,length=32"
    steps: int = 20
    seeds: int = 1
    patterns: tuple[str, ...] = ("2:4", "1:4")
    saliencies: tuple[str, ...] = ("magnitude", "wanda", "ria")

    def frame(self, settings: Settings) -> pd.DataFrame:
        """One row per trial, the dense control among them."""
        return run_trials(
            self.task,
            settings,
            pattern=[None, *self.patterns],
            saliency=list(self.saliencies),
            permutation=list(CHANNELS),
            seed=range(self.seeds),
            steps=self.steps,
            track_every=0,
            where=lambda trial: trial.pattern is not None or (trial.saliency, trial.permutation) == ("magnitude", None),
            device=settings.device,
        )


@dataclass(frozen=True)
class Agreement:
    """How far two networks agree on a task's evaluation data.

    It has ``top1`` of each, how many ``predictions`` differ, and the largest difference of their
    logits beside the ``largest`` logit.
    """

    top1: tuple[float, float]
    predictions: int
    difference: float
    largest: float


def agreement(task: Task, first: nn.Module, second: nn.Module, *, batch_size: int = 250) -> Agreement:
    """Both networks in evaluation mode, as they are, in their own dtype."""
    one, two = (answers(task, network, batch_size=batch_size) for network in (first, second))
    return Agreement(
        top1=(one.top1, two.top1),
        predictions=int((predicted(one.logits) != predicted(two.logits)).sum()),
        difference=float((one.logits.double() - two.logits.double()).abs().max()),
        largest=float(one.logits.abs().max()),
    )


def run(settings: Settings) -> Section:
    """How much of MiniLM moves, what that changes, and its accuracy when sparse, before and after fine-tuning."""
    if not settings.full:
        return Section(TITLE, "MiniLM on movie sentiment takes minutes a row: `--full` has it.")
    comparison = Comparison()
    try:
        task = get_task(comparison.task)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        return Section(TITLE, f"**MiniLM** was skipped: {error}.")
    model, _ = dense_baseline(task, device=settings.device, progress=settings.progress)
    permuted = copy.deepcopy(model)
    report = permute(permuted, to_device(task.example_inputs, torch.device(settings.device)), "2:4")
    agreed = agreement(task, model, permuted)
    frame = comparison.frame(settings)
    text = [_moved(report), _agreed(agreed, len(task.eval_data)), accuracy_table(frame)]
    return Section(TITLE, "\n\n".join(text), {"transformers": frame, "transformers_weights": report.weights})


def _moved(report: PermutationReport) -> str:
    counts = report.weights["status"].value_counts()
    return (
        f"**MiniLM** (6 layers of 384, real weights): the input channels of {counts.get('permuted', 0)} of "
        f"{len(report.weights)} eligible weights were permuted for 2:4, and retain {100 * report.retained_gain:+.2f}%. "
        f"Outputs in float64 before and after differ by {report.max_rel_error:.1e} of the largest; rounding explains "
        f"{report.tolerance:.0e}."
    )


def _agreed(found: Agreement, examples: int) -> str:
    return (
        f"Fine-tuned on movie sentiment, on {examples} held-out snippets: accuracy {found.top1[0]:.2f}% before permuting, "
        f"{found.top1[1]:.2f}% after, {found.predictions} predictions differ. Logits (float32) differ by at most "
        f"{found.difference:.1e}; the largest is {found.largest:.2f}."
    )


def accuracy_table(frame: pd.DataFrame) -> str:
    """The frame of a ``Comparison`` as a Markdown table.

    It has means over seeds, one row per pattern, saliency and channels.
    """
    done = frame[frame["state"] == "done"].copy()
    done["channels"] = [CHANNELS[name if isinstance(name, str) else None] for name in done["permutation"]]
    done["pattern"] = done["pattern"].astype(object).fillna("dense")
    done["saliency"] = done["saliency"].astype(object)
    measures = {"retained_percent": "magnitude retained, %", "pruned_top1": "one shot", "finetuned_top1": "fine-tuned"}
    table = (
        done.groupby(["pattern", "saliency", "channels"], sort=False)[list(measures)].mean().rename(columns=measures)
    )
    table.loc[("dense", "magnitude", "as trained"), "magnitude retained, %"] = 100.0
    formats = {"magnitude retained, %": ".1f", "one shot": ".1f", "fine-tuned": ".1f"}
    return (
        f"Top-1 in percent; {done['seed'].nunique()} seed(s), {int(done['steps'].max())} steps of fine-tuning under the masks, "
        "the dense network's alike. Only the encoder is pruned. Wanda and relative importance saw 128 training snippets.\n\n"
        f"{markdown_table(table.reset_index(), formats)}"
    )
