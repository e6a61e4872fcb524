"""How many of the eligible weights of many architectures can be permuted, and why the others cannot.

Builds what is installed: models of ``transformers`` from configs (hidden size 64, two layers), of ``timm``,
``diffusers`` and ``torchvision`` by name. Every parameter and buffer is random, every free axis moved at random in
float64, and outputs compared. Names after the script choose some: ``python -m benchmarks.bench_reach mixtral timm/``.
Rows are saved as they come, in results/bench_reach.csv.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.architectures import BUILDS
from benchmarks.build import Build
from sparselab.core.layers import LayerWeight
from sparselab.core.patterns import Pattern
from sparselab.network.analysis import Analysis, analyse
from sparselab.network.findings import Findings
from sparselab.network.free_axes import free_axes
from sparselab.network.named_axes import chosen_layers
from sparselab.network.plan import Plan
from sparselab.network.search_problems import consumers_of
from sparselab.network.searching import SearchSettings, search_axes
from sparselab.network.tracing import UntraceableError, as_call, restored, tensors_in

PATTERN = Pattern.parse("2:4")
RESULTS = Path("results/bench_reach.csv")


@dataclass(frozen=True)
class Row:
    """What became of one build: weights in numbers, the share of them that can move in percent.

    Weights that the model does not use on these inputs are not counted; ``unused`` is their part of all, in percent.
    ``difference`` is that of the outputs, relative to the largest, after every free axis was moved at random,
    ``rounding`` that after one rounding in every weight; ``reasons`` say what stays, each with the percent of the
    eligible weights.
    """

    name: str
    family: str
    eligible: int
    reached: int
    share: float
    unused: float
    difference: float
    rounding: float
    seconds: float
    reasons: str


def main(chosen: Sequence[str]) -> None:
    """Run the builds whose name starts with one of ``chosen`` (all if there are none), and print the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    rows: list[Row] = []
    for build in BUILDS:
        if chosen and not build.name.startswith(tuple(chosen)):
            continue
        if importlib.util.find_spec(build.family) is None:
            continue
        rows.append(reach(build))
        print(
            f"{rows[-1].name:32} {rows[-1].share:6.1f}% {rows[-1].difference:8.1e} {rows[-1].reasons[:300]}", flush=True
        )
        RESULTS.parent.mkdir(exist_ok=True)
        pd.DataFrame(map(asdict, rows)).to_csv(RESULTS, index=False)


def reach(build: Build) -> Row:
    """The row of one build; an error of the library or of ours is its reason."""
    started = time.perf_counter()
    eligible, reached, unused, difference, rounding = 0, 0, 0, math.nan, math.nan
    try:
        torch.manual_seed(0)
        with torch.no_grad():  # what weight_norm computes while it is built could not be copied otherwise
            model, inputs = build.model().eval(), build.inputs()
        randomise(model)
        layers = chosen_layers(model, PATTERN, None, None)
        eligible = sum(layer.weight.numel() for layer in layers)
        analysis = analyse(model, inputs)
        reached, unused, reasons = _reached(analysis, layers)
        difference, rounding = _differences(model, inputs, analysis)
    except UntraceableError as error:
        reasons = str(error)
    except Exception as error:  # a library that cannot build it on this version, or a mistake of ours
        reasons = f"{type(error).__name__}: {error}"
    share = 100 * reached / (eligible - unused) if eligible else math.nan
    idle = 100 * unused / max(1, eligible)
    seconds = time.perf_counter() - started
    return Row(
        build.name, build.family, eligible - unused, reached, share, idle, difference, rounding, seconds, reasons
    )


def _reached(analysis: Analysis, layers: Sequence[LayerWeight]) -> tuple[int, int, str]:
    """How many numbers are in weights whose input channels can be put in another order, and in weights not used.

    And why the others cannot, each reason with the percent of all.
    """
    consumers = consumers_of(analysis, layers)
    settings = SearchSettings(PATTERN, "random,1", "magnitude", 0, "auto", progress=False)
    searches = search_axes(analysis, free_axes(analysis), consumers, settings)
    weights = Findings(PATTERN, layers, analysis, consumers, searches).report(0.0).weights
    searched = {consumer.name for search in searches.axes if search.worth for consumer in search.consumers}
    reached = weights["weight"].isin(searched)  # whether a better order was found or not
    unused = weights["reason"].str.contains("is not used by the model on these inputs", regex=False)
    shares = 100 * weights[~reached & ~unused].groupby("reason")["numel"].sum() / max(1, weights["numel"].sum())
    reasons = "; ".join(f"{share:.0f}% {reason}" for reason, share in shares.sort_values(ascending=False).items())
    return int(weights.loc[reached, "numel"].sum()), int(weights.loc[unused & ~reached, "numel"].sum()), reasons


def _differences(model: nn.Module, inputs: Any, analysis: Analysis) -> tuple[float, float]:
    """How far outputs are after all free axes were moved at random, and after one rounding in every weight.

    In float64, where the model can be; the rounding is of the lowest dtype that its code asks for.
    """
    rng = np.random.default_rng(0)
    orders = {a: np.stack([rng.permutation(a.size) for _ in range(a.contexts)]) for a in free_axes(analysis)}
    subject, given = copy.deepcopy(model).double(), _as_double(inputs)
    try:
        before = _outputs(subject, given)
    except RuntimeError:
        subject, given = copy.deepcopy(model), inputs
        before = _outputs(subject, given)
    Plan.from_orders(analysis, orders).apply(subject)
    moved = _largest(before, _outputs(subject, given))
    Plan.from_orders(analysis, orders).inverse().apply(subject)
    with torch.no_grad():
        for parameter in filter(Tensor.is_floating_point, subject.parameters()):
            parameter.mul_(1 + torch.finfo(analysis.lowest or parameter.dtype).eps)
    return moved, _largest(before, _outputs(subject, given))


def _largest(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    pairs = zip(before, after, strict=True)
    return max(
        (float((b - a).abs().max() / b.abs().max().clamp_min(1e-30)) for b, a in pairs if b.numel()), default=0.0
    )


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    args, kwargs = as_call(inputs)
    torch.manual_seed(0)
    with torch.no_grad(), restored(model):  # a cache of what was computed of parameters would be that of the old ones
        return [tensor.double().clone() for tensor in tensors_in(model(*args, **kwargs))]


def _as_double(inputs: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )


def randomise(model: nn.Module) -> None:
    """Every parameter and persistent floating-point buffer random: a fresh norm would hide a forgotten move."""
    generator = torch.Generator().manual_seed(0)
    persistent = model.state_dict()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                spread = max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and name in persistent:
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


if __name__ == "__main__":
    main(sys.argv[1:])
