"""Accuracy after fine-tuning: dense, 2:4 and 1:4, with channels as trained, permuted, and in a random order."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparselab.network.permuting import permute
from sparselab.paths import cache_dir
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.tasks import Task, dense_baseline, evaluate, fresh_model, get_task, recalibrate, train
from sparselab.tasks.baseline import fingerprint
from sparselab.training.sparsifier import Sparsifier

TITLE = "Accuracy after fine-tuning"
CHANNELS = ("as trained", "permuted", "random order")


@dataclass(frozen=True)
class Comparison:
    """Which task is run how: ``steps`` of dense training and of fine-tuning (``None``: what the task's recipes say)."""

    task: str
    seeds: int
    dense_steps: int | None = None
    steps: int | None = None
    patterns: tuple[str, ...] = ("2:4", "1:4")

    def cases(self) -> list[tuple[str, str]]:
        """Pattern and channels of every trial of one seed."""
        return [("dense", "as trained"), *((pattern, channels) for pattern in self.patterns for channels in CHANNELS)]


QUICK = (Comparison("digits", 1), Comparison("fashion_mnist,residual,held_out=2000", 1, 300, 60, ("2:4",)))
FULL = (Comparison("digits", 3), Comparison("fashion_mnist,residual", 3))


def run(settings: Settings) -> Section:
    """A table a task; a task whose data are missing gets a sentence saying so."""
    texts: list[str] = []
    tables: dict[str, pd.DataFrame] = {}
    for comparison in FULL if settings.full else QUICK:
        try:
            task = get_task(comparison.task)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            texts.append(f"**{comparison.task.partition(',')[0]}** was skipped: {error}.")
            continue
        frame = pd.DataFrame(finished_trials(task, comparison, progress=settings.progress))
        tables[f"finetune_{task.name}"] = frame
        texts.append(_text(task, comparison, frame))
    return Section(TITLE, _HEAD + "\n\n".join(texts), tables)


_HEAD = """
A trained network is pruned in one shot by magnitude, its batch norm statistics are re-estimated (*one shot*), and it is
trained on with its masks (*fine-tuned*; the dense network is trained on alike). *Permuted*: channels in the order that lets
the masks retain the most, the same function as before. *Random order*: the same with an order that ignores the weights, as a
control for luck. *Retained* is the share of the sparse layers' magnitude.

"""


def finished_trials(task: Task, comparison: Comparison, *, progress: bool = False) -> Iterator[dict[str, Any]]:
    """A row a trial. Each is kept in the cache folder as soon as it is done, and read from there the next time."""
    trials = [(pattern, channels, seed) for seed in range(comparison.seeds) for pattern, channels in comparison.cases()]
    for pattern, channels, seed in tqdm(trials, f"{task.name}: trials", disable=not progress, leave=False):
        file = _file(task, comparison, pattern, channels, seed)
        if not file.is_file():
            row = trial(
                task, comparison, pattern, channels, seed, checkpoint=file.with_suffix(".pt"), progress=progress
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(row), encoding="utf-8")
            partial.replace(file)
        yield json.loads(file.read_text(encoding="utf-8"))


def trial(
    task: Task,
    comparison: Comparison,
    pattern: str,
    channels: str,
    seed: int,
    *,
    checkpoint: Path,
    progress: bool = False,
) -> dict[str, Any]:
    """Prune and fine-tune the dense network of ``seed``; the numbers of one row."""
    model, dense = dense_baseline(task, seed=seed, steps=comparison.dense_steps, progress=progress)
    started = time.perf_counter()
    sparsifier = None if pattern == "dense" else _pruned(task, model, pattern, channels, seed)
    retained = 100.0 if sparsifier is None else _retained_percent(sparsifier)
    if sparsifier is not None:
        recalibrate(task, model, seed=seed)
    one_shot = evaluate(task, model)["top1"]
    train(
        task,
        model,
        recipe=task.finetuning_recipe,
        steps=comparison.steps,
        seed=seed + 1000,
        sparsifier=sparsifier,
        checkpoint=checkpoint,
        progress=progress,
    )
    return {
        "task": task.name,
        "pattern": pattern,
        "channels": channels,
        "seed": seed,
        "dense_top1": dense["top1"],
        "retained_percent": retained,
        "one_shot_top1": one_shot,
        "finetuned_top1": evaluate(task, model)["top1"],
        "seconds": time.perf_counter() - started,
    }


def _pruned(task: Task, model: nn.Module, pattern: str, channels: str, seed: int) -> Sparsifier:
    if channels == "random order":
        generator = torch.Generator().manual_seed(seed)

        def noise(weight: Tensor) -> Tensor:
            return torch.rand(weight.shape, generator=generator)

        permute(model, task.example_inputs, pattern, saliency=noise, include=task.include, strategy="channel_swap,0")
    inputs = task.example_inputs if channels == "permuted" else None
    sparsifier = Sparsifier(model, pattern, include=task.include, example_inputs=inputs)
    sparsifier.compute()
    return sparsifier


def _retained_percent(sparsifier: Sparsifier) -> float:
    """Of all sparse layers together."""
    kept = {layer.name: float(layer.weight.detach().abs().sum()) for layer in sparsifier.weights.layers}
    total = sum(kept[name] / sparsifier.weights.shares[name] for name in kept)
    return 100 * sum(kept.values()) / total


def _file(task: Task, comparison: Comparison, pattern: str, channels: str, seed: int) -> Path:
    identity = repr(
        (fingerprint(task, fresh_model(task, seed), seed), comparison, task.finetuning_recipe, pattern, channels)
    )
    return cache_dir() / "finetune" / f"{task.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _text(task: Task, comparison: Comparison, frame: pd.DataFrame) -> str:
    measures = {"retained_percent": "retained, %", "one_shot_top1": "one shot", "finetuned_top1": "fine-tuned"}
    grouped = frame.groupby(["pattern", "channels"], sort=False)[list(measures)]
    table = grouped.mean().rename(columns=measures)
    formats = {"retained, %": ".1f", "one shot": ".2f", "fine-tuned": ".2f"}
    if comparison.seeds > 1:
        table["spread"] = grouped.std()["finetuned_top1"]
        formats["spread"] = ".2f"
    short = (
        ""
        if comparison.steps is None
        else " This is the short form: few steps, so both trainings stop early, and fewer pictures."
    )
    runs = (
        f"{comparison.seeds} seeds; *spread* is the standard deviation over them"
        if comparison.seeds > 1
        else "One seed"
    )
    return f"""**{task.name}**, top-1 in percent. {runs}. Dense before fine-tuning: {frame["dense_top1"].mean():.2f}.{short}

{markdown_table(table.reset_index(), formats)}"""
