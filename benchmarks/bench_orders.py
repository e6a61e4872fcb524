"""Free, gathered and own orders on real networks: what they retain, what it is worth, and what a gather costs.

SmolLM2: the 28 weights of its first four blocks at 2:4, perplexity of a short text. EfficientNet-Lite0: the 1 x 1
convolutions of its blocks, answers to pictures with batch norm re-estimated. Needs the parts ``llm`` and ``zoo`` and
their data; what is missing is left out. Orders are searched by ``channel_swap``, by the pruner's own saliency and
Wanda's for SparseGPT. Every row is printed when it is there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparselab as sl
from sparselab.core.layers import layer_weights
from sparselab.core.models import evaluating
from sparselab.metrics.language import foretold
from sparselab.network.plan import Plan
from sparselab.network.report import PermutationReport
from sparselab.reproduce.pictures import INCLUDE, cross_answers
from sparselab.saliency import InputNorms, from_statistics
from sparselab.tasks import LabelledPictures, efficientnet_lite0
from sparselab.tasks.efficientnet_lite import scale_pixels
from sparselab.tasks.smollm import smollm2

STRATEGY = "channel_swap"
PRUNERS = {"wanda": "wanda", "ria": "ria", "sparsegpt": "wanda"}
"""The pruners, and the saliency that orders are searched by for each."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network, the batches that it is calibrated on, the weights that are pruned and a measure of it."""

    name: str
    model: nn.Module
    batches: Sequence[Any]
    include: tuple[str, ...]
    measure: Callable[[nn.Module], dict[str, float]]
    blocks: str | None

    @property
    def names(self) -> list[str]:
        """The weights that are pruned."""
        layers = layer_weights(self.model)
        return [layer.name for layer in layers if layer.matches(self.include) and layer.weight.shape[1] % 4 == 0]

    def permuted(self, saliency: str) -> PermutationReport:
        """The report of gathered orders, which has the free ones too; the model stays as it is."""
        names = self.names
        found = sl.statistics.collect(self.model, self.batches, [InputNorms], layers=names)
        return sl.permute(
            copy.deepcopy(self.model),
            self.batches[0],
            strategy=STRATEGY,
            saliency=from_statistics(saliency, found),
            include=names,
            verify="own_dtype",
            orders="gathered",
        )

    def pruned(self, model: nn.Module, pruner: str, orders: str) -> dict[str, float]:
        """The weights of ``model`` pruned, and what is left of it."""
        own = {"permutation": STRATEGY, "orders": orders} if orders == "own" else {}
        report = sl.prune(
            model,
            self.batches,
            pruner=pruner,
            include=self.include,
            blocks=self.blocks,
            sequential=False,
            progress=False,
            **own,
        )
        rows = report.frame[report.frame["eligible"]]
        retained = (rows["retained_percent"] * rows["magnitude"]).sum() / rows["magnitude"].sum()
        error = rows["dense_error_percent"].median()
        return {"weights": len(rows), "retained_percent": retained, "error_percent": error, **self.measure(model)}

    def rows(self) -> Iterator[dict[str, Any]]:
        """The dense network, and every pruner in every kind of orders."""
        yield {"network": self.name, "pruner": "none", "orders": "dense", **self.measure(self.model)}
        reports = {saliency: self.permuted(saliency) for saliency in dict.fromkeys(PRUNERS.values())}
        for pruner, saliency in PRUNERS.items():
            report = reports[saliency]
            count = len(report.plan.gathers)
            free = Plan(report.plan.moves[: len(report.plan.moves) - count])
            taken = report.taken
            cost = {
                "gathers": count,
                "microseconds": taken["microseconds"].sum(),
                "layer_microseconds": report.gathers["layer_microseconds"].sum(),
                "mib": taken["bytes"].sum() / 2**20,
            }
            for orders, plan in (("none", Plan()), ("free", free), ("gathered", report.plan), ("own", Plan())):
                model = copy.deepcopy(self.model)
                plan.apply(model)
                about = {"network": self.name, "pruner": pruner, "orders": orders}
                yield {**about, **self.pruned(model, pruner, orders), **(cost if orders == "gathered" else {})}


def run() -> pd.DataFrame:
    """One row for each network, pruner and kind of orders."""
    return rows_of_networks(Case.rows, [smollm, lite])


def rows_of_networks(
    rows: Callable[[Case], Iterable[dict[str, Any]]], makes: Iterable[Callable[[], Case]]
) -> pd.DataFrame:
    """The ``rows`` of each network whose weights and data are there, printed as they come."""
    found = []
    for make in makes:
        try:
            case = make()
        except (FileNotFoundError, ModuleNotFoundError) as error:
            print(error, flush=True)
            continue
        for row in rows(case):
            print(row, flush=True)
            found.append(row)
    return pd.DataFrame(found)


def smollm(windows: int = 4) -> Case:
    """SmolLM2's first four blocks, and so many windows to judge them on.

    The task's own divergence would run the dense model again for each of hundreds of orders; here its answers are kept.
    """
    task = smollm2(windows=windows, context=256)
    dense = task.model()
    judged = [task.eval_data[torch.tensor([index])] for index in range(len(task.eval_data))]

    def log_shares(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        with evaluating(model), torch.no_grad():
            logits, labels = foretold(model, batch)
        return F.log_softmax(logits.float(), dim=-1), labels

    expected = [log_shares(dense, batch)[0] for batch in judged]

    def measure(model: nn.Module) -> dict[str, float]:
        nats, divergence = [], []
        for batch, shares in zip(judged, expected, strict=True):
            found, labels = log_shares(model, batch)
            nats.append(float(F.nll_loss(found, labels)))
            divergence.append(float(F.kl_div(found, shares, reduction="batchmean", log_target=True)))
        return {"perplexity": math.exp(np.mean(nats)), "divergence": float(np.mean(divergence))}

    include = tuple(f"model.layers.{number}.*" for number in range(4))
    return Case("SmolLM2", dense, list(task.calibration_batches(8)), include, measure, "auto")


def lite() -> Case:
    """EfficientNet-Lite0 and one in five of the pictures."""
    pictures = LabelledPictures.load()[::5]
    model = efficientnet_lite0()
    dense = cross_answers(model, pictures)

    def measure(model: nn.Module) -> dict[str, float]:
        told = cross_answers(model, pictures)
        return {"top1": 100 * float(told.right.float().mean()), "divergence": told.divergence_from(dense)}

    batches = [scale_pixels(pictures.pixels[start : start + 8]) for start in (0, 8)]
    return Case("EfficientNet-Lite0", model, batches, INCLUDE, measure, None)
