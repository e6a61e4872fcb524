"""What others measured: ratios of dense over sparse time, with their sources (``published.json``)."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd

from sparselab.deploy.hardware import Attained, Hardware, attained, hardware
from sparselab.deploy.roofline import Corners, Roofline
from sparselab.deploy.workload import Operation


@dataclass(frozen=True)
class PublishedLayer:
    """A matrix product that somebody timed; ``gpu`` is empty where it was not said, ``host`` as in ``published.json``."""

    what: str
    outputs: int
    channels: int
    tokens: int
    dtype: str
    gpu: str | None
    speedup: Sequence[float]
    host: bool
    source: str


@functools.cache
def published_layers() -> tuple[PublishedLayer, ...]:
    """All that are listed."""
    content: dict[str, Any] = json.loads(files("sparselab.deploy").joinpath("published.json").read_text())
    return tuple(PublishedLayer(**entry) for entry in content["layers"])


def nearest(outputs: int, channels: int, tokens: int) -> str:
    """The published product whose sizes are nearest in ratio, in words; empty where none is within a factor of four.

    >>> nearest(4096, 4096, 1)
    '0.11 at 4096 x 4096, 1 token, host included (https://github.com/pytorch/pytorch/issues/111339)'
    """
    sizes = (outputs, channels, tokens)

    def distance(layer: PublishedLayer) -> float:
        theirs = (layer.outputs, layer.channels, layer.tokens)
        return max(abs(math.log(mine / other)) for mine, other in zip(sizes, theirs))

    found = min(published_layers(), key=distance)
    if not all(sizes) or distance(found) > math.log(4):
        return ""
    tokens_of = f"{found.tokens:,} token{'' if found.tokens == 1 else 's'}"
    host = ", host included" if found.host else ""
    return f"{found.speedup[0]:.2f} at {found.outputs} x {found.channels}, {tokens_of}{host} ({found.source})"


def compared() -> pd.DataFrame:
    """Every published ratio beside the bounds forecast for it: what ``docs/forecast.md`` shows.

    Columns: ``what, outputs, channels, tokens, gpu`` (where it was not said, all that are known are
    forecast and the bounds are the widest), ``published, lower, upper, inside, source``. Where the
    host was timed too, ``lower`` is with what it takes.
    """
    return pd.DataFrame([_compared(layer) for layer in published_layers()])


def _compared(layer: PublishedLayer) -> dict[str, Any]:
    reached = attained()
    gpus = [hardware(layer.gpu)] if layer.gpu else [hardware(name) for name in ("a100", "a6000", "rtx3090", "h100")]
    bounds = [speedup_bounds(layer.outputs, layer.channels, layer.tokens, gpu, layer.dtype, reached) for gpu in gpus]
    with_host = [
        speedup_bounds(layer.outputs, layer.channels, layer.tokens, gpu, layer.dtype, reached, reached.host_us)
        for gpu in gpus
    ]
    lower = min(low for low, _ in (with_host if layer.host else bounds))
    upper = max(high for _, high in bounds)
    value = layer.speedup[0]
    return {
        "what": layer.what,
        "outputs": layer.outputs,
        "channels": layer.channels,
        "tokens": layer.tokens,
        "gpu": layer.gpu or "not said",
        "published": value,
        "lower": lower,
        "upper": upper,
        "inside": lower <= value <= upper,
        "source": layer.source,
    }


def speedup_bounds(
    outputs: int, channels: int, tokens: int, gpu: Hardware, dtype: str, reached: Attained, host_us: float = 0.0
) -> tuple[float, float]:
    """The bounds of dense over sparse time of one product that a kernel takes."""
    flops = 2.0 * outputs * channels * tokens
    product = Operation(
        "mm", "weight", flops, outputs * channels, tokens * channels, tokens * outputs, outputs, channels, tokens
    )
    times = Roofline(gpu, gpu.precision(dtype), reached).times(product, Corners.of(reached), kernel=True)
    ratios = times.dense / (times.sparse + host_us)
    return float(ratios.min()), float(ratios.max())
