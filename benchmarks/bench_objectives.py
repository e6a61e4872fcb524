"""Which objective of orders a network feels: what 100 orders are worth by each, beside what pruning in them costs.

Orders are the best ones by each objective, and the given one, with a growing share of every axis's channels shuffled, so
that they range from the best to random. The networks are those of ``bench_orders``: SmolLM2, whose first four blocks
are pruned to 2:4, and EfficientNet-Lite0. Every weight is pruned by what it is given in the dense model, by Wanda
(masks alone) and by SparseGPT (with its update). Rows are printed as they come; ``results/bench_objectives_summary.csv``
has Spearman's correlation of each objective with each measure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import sparselab as sl
from benchmarks.bench_orders import Case, lite, rows_of_networks, smollm
from sparselab.core.layers import LayerWeight, layer_weights
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks import calculator
from sparselab.network.analysis import Analysis
from sparselab.network.examples import examples_of
from sparselab.network.free_axes import free_axes
from sparselab.network.plan import Plan
from sparselab.network.reach import Reach
from sparselab.permutation.objectives import OBJECTIVES, problem_of
from sparselab.permutation.problem import SearchProblem
from sparselab.pruners import get_pruner
from sparselab.saliency import from_statistics
from sparselab.statistics import InputNorms, SecondMoments

PATTERN = "2:4"
STRATEGY = "channel_swap"
SALIENCY = "saliency"
BY = (SALIENCY, "error", "updated_error")
PRUNERS = ("wanda", "sparsegpt")
COUNT = 100
WINDOWS = 8
"""To judge SmolLM2 on: orders differ by little."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """A network with its channels in some order, and what its weights, by name, are given there."""

    model: nn.Module
    statistics: Mapping[type[Any], Mapping[str, Any]]

    def moved(self, plan: Plan) -> Ordered:
        """A copy with its channels moved by ``plan``."""
        model = copy.deepcopy(self.model)
        plan.apply(model)
        return Ordered(model, {kind: plan.moved(found) for kind, found in self.statistics.items()})

    @property
    def layers(self) -> list[LayerWeight]:
        """The weights that statistics are known of."""
        return [layer for layer in layer_weights(self.model) if layer.name in self.statistics[SecondMoments]]

    def best(self, by: str, example: Any) -> Plan:
        """The best order that the strategy finds."""
        how: dict[str, Any] = {"saliency": from_statistics("wanda", self.statistics)}
        if by != SALIENCY:
            how = {"objective": by, "moments": self.statistics[SecondMoments]}
        names = [layer.name for layer in self.layers]
        found = sl.permute(
            copy.deepcopy(self.model), example, PATTERN, strategy=STRATEGY, include=names, verify=False, **how
        )
        return found.plan

    def worth(self, by: str) -> float:
        """What the order that the channels are in is worth, in percent: retained saliency, or errors saved."""
        wanda = from_statistics("wanda", self.statistics)
        kept, whole = 0.0, 0.0
        for layer in self.layers:
            if by == SALIENCY:
                scores = wanda[layer.name](layer.weight.detach())
                problem = SearchProblem.from_matrix(to_matrix(scores, layer.channel_dim))
            else:
                problem = problem_of(layer.weight, OBJECTIVES.resolve(by), self.statistics[SecondMoments][layer.name])
            kept += problem.retained(None, PATTERN)
            whole += sum(problem.total_each())
        return 100 * kept / whole

    def pruned(self, pruner: str) -> nn.Module:
        """A copy whose weights are pruned, each by what it is given in the dense model."""
        found = Ordered(copy.deepcopy(self.model), self.statistics)
        method = get_pruner(pruner)
        for layer in found.layers:
            statistic = self.statistics[method.needs][layer.name]
            new = method(layer.weight.detach(), calculator(PATTERN), statistic, channel_dim=layer.channel_dim)
            with torch.no_grad():
                layer.weight.copy_(new.weight)
        return found.model


def shuffled(analysis: Analysis, share: float, seed: int) -> Plan:
    """A plan that shuffles that ``share`` of the channels of every free axis among themselves."""
    rng = np.random.default_rng(seed)

    def order(size: int) -> np.ndarray:
        found = np.arange(size)
        chosen = rng.choice(size, round(share * size), replace=False)
        found[chosen] = rng.permutation(found[chosen])
        return found

    orders = {axis: np.stack([order(axis.size) for _ in range(axis.contexts)]) for axis in free_axes(analysis)}
    return Plan.from_orders(analysis, orders)


def rows(case: Case, count: int) -> Iterator[dict[str, Any]]:
    """What ``count`` orders of the network are worth by each objective, and what pruning leaves in them."""
    found = sl.statistics.collect(case.model, case.batches, [InputNorms, SecondMoments], layers=case.names)
    given = Ordered(case.model, found)
    example = case.batches[0]
    analysis = Reach.of(None, "refuse").analyse(case.model, examples_of(example, case.model))
    starts = {"given": given, **{by: given.moved(given.best(by, example)) for by in BY}}
    for number in range(count):
        start, share = list(starts)[number % len(starts)], number // len(starts) / max(1, (count - 1) // len(starts))
        ordered = starts[start].moved(shuffled(analysis, share, number))
        about = {"network": case.name, "start": start, "shuffled": share, **{by: ordered.worth(by) for by in BY}}
        for pruner in PRUNERS:
            about |= {f"{pruner} {name}": value for name, value in case.measure(ordered.pruned(pruner)).items()}
        yield about


def correlations(frame: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each objective with each measure, over the orders of each network."""
    found = []
    for network, each in frame.groupby("network", sort=False):
        known = each.dropna(axis=1, how="all")
        for measure in [name for name in known if name.split(" ")[0] in PRUNERS]:
            how = {by: known[by].corr(known[measure], method="spearman") for by in BY}
            found.append({"network": network, "measure": measure, "orders": len(known), **how})
    return pd.DataFrame(found)


def run() -> pd.DataFrame:
    """One row for each order of each network whose weights and data are there."""
    frame = rows_of_networks(lambda case: rows(case, COUNT), [partial(smollm, WINDOWS), lite])
    if len(frame):
        summary = correlations(frame)
        print(summary.to_string(index=False))
        summary.to_csv(Path("results") / "bench_objectives_summary.csv", index=False)
    return frame
