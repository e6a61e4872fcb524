"""One layer under several pruners: its statistics, collected when they are asked for, and what each makes of it.

Plain functions, no widget in sight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from sparselab.core import measures
from sparselab.core.layers import LayerWeight
from sparselab.core.weight_matrix import to_matrix
from sparselab.layerwise.chain import without_cache
from sparselab.layerwise.standing_in import Reached
from sparselab.masks import calculator
from sparselab.masks.eligibility import why_not
from sparselab.pruners import PRUNERS, get_pruner
from sparselab.pruners.pruner import checked
from sparselab.saliency import SALIENCIES
from sparselab.statistics import PositionMask, SecondMoments, Statistic, collect, reconstruction_error
from sparselab.statistics.collecting import call
from sparselab.statistics.layers import weight_uses

Check = Callable[[], None]

_MOST_LAYERS = 16
"""Statistics are kept of so many layers: those of one of 4096 inputs take 64 MiB."""

COLUMNS = (
    *("layer", "pattern", "pruner", "density", "retained_percent", "shared_percent"),
    *("change_percent", "mask_error_percent", "dense_error_percent", "seconds"),
)


def pruner_names() -> list[str]:
    """What can be chosen by name: the saliencies, which mask, and then the pruners that update what stays."""
    return [*SALIENCIES.names(), *(name for name in PRUNERS.names() if name != "by_saliency")]


# ------------------------------------------------------------------------------------------------------------ statistics


@dataclass(eq=False)
class LayerStatistics:
    """Statistics of one layer of ``model`` at a time over ``batches``; those of the layers seen last are kept.

    ``done`` of the batches have been seen for the layer that was asked for last.
    """

    model: nn.Module
    batches: Sequence[Any]
    mask: PositionMask | None = None
    done: int = 0
    kept: dict[str, dict[type[Any], Any]] = field(default_factory=dict)

    def of(self, name: str, kinds: Iterable[type[Statistic]], check: Check) -> Mapping[type[Any], Any]:
        """The statistics of the inputs of the weight ``name``, of each of ``kinds``.

        ``check`` is called before each batch; what it raises ends the pass. Raises ``ValueError``
        where the data do not reach the layer.
        """
        known = self.kept.pop(name, {})
        missing = [kind for kind in dict.fromkeys(kinds) if kind not in known]
        try:
            if missing:
                known = {**known, **self._collected(name, missing, check)}
        finally:
            if known:
                self.kept[name] = known
            while len(self.kept) > _MOST_LAYERS:
                del self.kept[next(iter(self.kept))]
        self.done = len(self.batches)
        return known

    def _collected(self, name: str, kinds: Sequence[type[Statistic]], check: Check) -> dict[type[Any], Any]:
        self.done = 0
        modules = [use.module for use in weight_uses(self.model) if use.name == name]
        calls: int | None = None

        def forward(model: nn.Module, batch: Any) -> None:
            nonlocal calls
            check()
            with _ending_after(modules, calls) as seen:
                call(model, batch)
            calls = seen[0]  # the first pass is a whole one, and tells after how many calls the others may end
            self.done += 1

        with without_cache(self.model):
            found = collect(
                self.model, self.batches, kinds, layers=[name], mask=self.mask, forward=forward, progress=False
            )
        if any(name not in found[kind] for kind in kinds):
            raise ValueError(f"the calibration data did not reach the layer of {name!r}")
        return {kind: found[kind][name] for kind in kinds}


@contextmanager
def _ending_after(modules: Sequence[nn.Module], calls: int | None) -> Iterator[list[int]]:
    """A forward pass inside ends at so many ``calls`` of ``modules`` (``None``: it does not); how many there were."""
    seen = [0]

    def count(*_: Any) -> None:
        seen[0] += 1
        if seen[0] == calls:
            raise Reached

    with ExitStack() as stack:
        for module in {id(module): module for module in modules}.values():
            stack.callback(module.register_forward_pre_hook(count).remove)
        stack.enter_context(suppress(Reached))
        yield seen


# --------------------------------------------------------------------------------------------------------------- pruning


@dataclass(frozen=True, eq=False)
class PrunedLayer:
    """What a ``pruner`` made of a layer: ``mask`` and new ``weights``, both ``(rows, channels)``, and its numbers.

    ``change_percent``: how far the weights that stay moved, as a share of their norm.
    ``mask_error_percent`` is the reconstruction error of the mask with the weights left alone,
    ``dense_error_percent`` that of the pruner, both over the inputs that the layer has in the dense
    model. ``seconds`` are those of the pruner, statistics not counted.
    """

    layer: str
    pattern: str
    pruner: str
    mask: NDArray[np.bool_]
    weights: NDArray[Any]
    retained_percent: float
    change_percent: float
    mask_error_percent: float
    dense_error_percent: float
    seconds: float


def require_fit(layer: LayerWeight, pattern: str) -> None:
    """Raise ``ValueError`` with the reason where ``pattern`` cannot prune ``layer``."""
    reason = why_not(layer.module, layer.attribute, calculator(pattern), channel_dim=layer.channel_dim)
    if reason is not None:
        raise ValueError(f"{layer.name} cannot be pruned to {pattern}: {reason}")


def weights_of(layer: LayerWeight) -> NDArray[Any]:
    """The weight matrix of ``layer``, ``(rows, channels)``, a copy in float32."""
    weight = layer.weight.detach().to("cpu", torch.float32, copy=True)
    return to_matrix(weight, layer.channel_dim).numpy()


def prune_layer(
    layer: LayerWeight, pattern: str, pruner: str, statistics: LayerStatistics, check: Check
) -> PrunedLayer:
    """``layer`` pruned by the statistics that it has in the dense model; it stays as it is.

    Raises ``ValueError`` for what the pattern cannot prune, and what the pruner refuses.
    """
    require_fit(layer, pattern)
    calculate, prune = calculator(pattern), get_pruner(pruner)
    kinds: list[type[Any]] = [SecondMoments, *([] if prune.needs is None else [prune.needs])]
    found = statistics.of(layer.name, kinds, check)
    check()
    weight, statistic = layer.weight.detach(), None if prune.needs is None else found[prune.needs]
    outputs, channels = calculate.multiples
    calculate(torch.ones(1, outputs, channels, device=weight.device))  # compiled before the clock starts
    with torch.no_grad():
        started = time.perf_counter()
        pruned = checked(prune(weight, calculate, statistic, channel_dim=layer.channel_dim), weight)
        seconds = time.perf_counter() - started
        alone = torch.where(pruned.mask, weight, 0)
        change = (pruned.weight - alone).double()
        kept = float(alone.double().norm())
        return PrunedLayer(
            layer=layer.name,
            pattern=pattern,
            pruner=pruner,
            mask=to_matrix(pruned.mask, layer.channel_dim).cpu().numpy(),
            weights=to_matrix(pruned.weight, layer.channel_dim).float().cpu().numpy(),
            retained_percent=measures.retained_percent(weight, pruned.mask),
            change_percent=100 * float(change.norm()) / kept if kept else math.nan,
            mask_error_percent=reconstruction_error(weight, alone, found[SecondMoments]),
            dense_error_percent=reconstruction_error(weight, pruned.weight, found[SecondMoments]),
            seconds=seconds,
        )


def comparison_frame(pruned: Sequence[PrunedLayer]) -> pd.DataFrame:
    """One row for each of ``pruned``, with the columns ``COLUMNS``.

    ``shared_percent`` is the share of the weights kept that the first one keeps too; the others are
    as ``PrunedLayer`` says.
    """
    rows = [
        {
            **{name: getattr(each, name) for name in COLUMNS if hasattr(each, name)},
            "density": float(each.mask.mean()),
            "shared_percent": 100 * float((each.mask & pruned[0].mask).sum()) / max(1, int(each.mask.sum())),
        }
        for each in pruned
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def in_short(pruned: Sequence[PrunedLayer]) -> str:
    """The reconstruction errors in a sentence, for those who do not see the picture."""
    return ", ".join(f"{each.pruner} {each.dense_error_percent:.3g} % in {each.seconds:.2g} s" for each in pruned)
