"""Does it pay? What 2:4 can do for the speed of a network on a GPU, layer by layer, before there is a GPU."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import nn

from sparselab.core.layers import Names, layer_weights
from sparselab.core.models import as_eager
from sparselab.deploy.hardware import Hardware, attained, hardware
from sparselab.deploy.onnx_export import grouped
from sparselab.deploy.published import nearest
from sparselab.deploy.refusals import KERNEL, refusal
from sparselab.deploy.roofline import Array, Corners, Roofline, Times, none
from sparselab.deploy.workload import Operation, examples_in, operations
from sparselab.masks import AnyPattern, MaskCalculator
from sparselab.network.examples import example_of

if TYPE_CHECKING:
    from sparselab.plots.style import Figure

COLUMNS = [
    *("layer", "batch", "outputs", "channels", "positions", "tokens", "flops", "bytes", "intensity", "bound"),
    *("kernel", "reason", "dense_us_lower", "dense_us_upper", "sparse_us_lower", "sparse_us_upper"),
    *("speedup_lower", "speedup_upper", "share_percent", "published"),
]
WHOLE = [
    *("batch", "layers", "taken", "flops", "dense_us_lower", "dense_us_upper", "sparse_us_lower", "sparse_us_upper"),
    *("speedup_lower", "speedup_upper", "touched_percent", "host_speedup_lower"),
]


@dataclass(frozen=True, eq=False)
class Forecast:
    """What ``forecast`` found.

    ``frame`` has one row for every layer and batch, ``whole`` one for every batch. All times are in
    microseconds, between bounds. ``rest`` has one row for every kind of work that no layer does, or
    no kernel takes: ``batch, what, share_percent``, of the dense time.

    ``str(...)`` is the sentence.
    """

    frame: pd.DataFrame
    whole: pd.DataFrame
    rest: pd.DataFrame
    hardware: Hardware
    dtype: str
    pattern: str

    def __repr__(self) -> str:
        return f"<Forecast: {self.sentence}>"

    @property
    def sentence(self) -> str:
        """What to expect, in words."""
        parts = [self._of_batch(row) for row in self.whole.to_dict("records")]
        where = f"{self.pattern} in {self.dtype} on {self.hardware.name}"
        return f"{where}: {'; '.join(parts)}. {self._untouched()}{self._called()}".strip()

    def _of_batch(self, row: Mapping[Any, Any]) -> str:
        rows = self.frame[self.frame["batch"] == row["batch"]]
        by_memory = rows.loc[rows["bound"] == "memory", "share_percent"].sum() > rows["share_percent"].sum() / 2
        bound = "memory" if by_memory else "arithmetic"
        lower, upper = row["speedup_lower"], row["speedup_upper"]
        expect = f"expect {lower:.2f} to {upper:.2f}" if row["taken"] else "no kernel takes a layer, expect 1.0"
        return f"at batch {row['batch']} the layers are bound by {bound}: {expect} times the dense speed"

    def _untouched(self) -> str:
        last = self.whole.to_dict("records")[-1]
        rest = self.rest[self.rest["batch"] == last["batch"]].nlargest(1, "share_percent")
        share = 100 - last["touched_percent"]
        at = f" at batch {last['batch']}" if len(self.whole) > 1 else ""
        if share < 0.5:
            return f"Hardly any of the time{at} is in what no sparse kernel takes. "
        most = "" if rest.empty else f", most of it {rest['what'].iloc[0]}"
        return f"{share:.0f}% of the time{at} is in what no sparse kernel takes{most}. "

    def _called(self) -> str:
        first = self.whole.to_dict("records")[0]
        if not first["taken"] or first["host_speedup_lower"] > 0.95 * first["speedup_lower"]:
            return ""
        return (
            "Called one by one from Python, with nothing kept between calls, sparse layers were measured to wait "
            f"for the host: then {_at_least(first['host_speedup_lower'])} times the dense speed at batch {first['batch']}."
        )

    def plot(self) -> Figure:
        """The roofline with the layers on it (``sparselab.plots.roofline``)."""
        from sparselab.plots import roofline

        return roofline(self.frame)

    def __str__(self) -> str:
        return textwrap.fill(self.sentence, 100)


def _at_least(speedup: float) -> str:
    """A speed-up that was measured at the least, in words.

    >>> _at_least(0.31), _at_least(6e-5)
    ('as low as 0.3', 'less than 0.01')
    """
    return f"as low as {speedup:.1g}" if speedup >= 0.01 else "less than 0.01"


def forecast(
    model: nn.Module,
    example_inputs: Any,
    pattern: AnyPattern = "2:4",
    *,
    hardware: str | Hardware = "h100",
    dtype: str = "float16",
    batch: int | Sequence[int] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> Forecast:
    """How much faster ``model`` can be under ``pattern`` on a GPU that need not be there, between bounds.

    The model runs once on the shapes of ``example_inputs`` (what ``model(...)`` takes), with no
    numbers computed; models on the meta device will do. ``batch`` has it forecast for other
    numbers of examples than those given. ``hardware`` is a name (``"a100"``, ``"h100"``, ``"l40s"``,
    ...) or a ``Hardware`` of your own, ``dtype`` the precision that all layers would run in
    (``"float16"``, ``"bfloat16"``, ``"int8"``, ``"float8"``), whatever the model is in now.
    ``include`` and ``exclude`` name the layers that would be pruned, as in ``Sparsifier``.

    ``frame`` has one row for each layer and batch, in the order in which they run: ``layer, batch,
    outputs, channels, positions, tokens, flops, bytes`` (dense), ``intensity`` (flops per byte),
    ``bound`` (``"memory"`` or ``"arithmetic"``), ``kernel`` (which would take it; empty and a ``reason`` where none does),
    ``dense_us_lower ... sparse_us_upper`` (microseconds), ``speedup_lower, speedup_upper`` (dense
    over sparse), ``share_percent`` (of the model's dense time at the peaks) and ``published`` (the
    nearest shape that somebody measured). ``whole`` sums up each batch: ``touched_percent`` is the
    share of dense time that 2:4 can touch, and ``speedup_upper`` the best possible ratio (Amdahl's
    law). ``host_speedup_lower`` is what is left where every sparse call waits for the host.

    Bounds are the extremes over what kernels were measured to reach of the peaks
    (``docs/forecast.md``); a sparse kernel is used wherever it takes a layer, also where it does
    not pay. Not modelled: caches, clocks that fall, launches in a row. Deterministic; the model is
    left as it was. Raises ``ValueError`` for unknown hardware, a dtype or a pattern that it has no
    rate for, and inputs that do not fit.

    >>> from torch import empty
    >>> found = forecast(nn.Linear(4096, 4096), empty(1, 4096), hardware="a100", batch=[1, 2048])
    >>> found.frame[["batch", "bound", "kernel"]].to_dict("records")
    [{'batch': 1, 'bound': 'memory', 'kernel': 'cusparselt'}, {'batch': 2048, 'bound': 'arithmetic', 'kernel': 'cusparselt'}]
    >>> bool(found.whole["speedup_upper"].max() <= 2)
    True
    """
    as_eager(model, "forecast")
    gpu = _hardware(hardware)
    roof = Roofline(gpu, gpu.precision(dtype), attained())
    calculate = grouped(pattern)
    example_inputs = example_of(example_inputs, model, "forecast")
    batches = _batches(batch, example_inputs)
    reasons = _reasons(model, calculate, roof.dtype, Names.of(include, exclude))
    found = [
        _of_batch(operations(model, example_inputs, size if batch is not None else None), size, reasons, roof)
        for size in batches
    ]
    frame = pd.DataFrame([row for each in found for row in each.rows], columns=COLUMNS)
    frame.attrs = {
        "hardware": gpu.name, "dtype": roof.dtype, "pattern": str(calculate), "bandwidth": gpu.bandwidth,
        "dense_rate": gpu.dense[roof.dtype], "sparse_rate": gpu.sparse[roof.dtype], "source": gpu.source,
    }  # fmt: skip
    whole = pd.DataFrame([each.whole for each in found], columns=WHOLE)
    rest = pd.DataFrame([row for each in found for row in each.rest], columns=["batch", "what", "share_percent"])
    rest = rest.astype({"share_percent": float})  # also where a kernel takes everything and no row says so
    return Forecast(frame, whole, rest, gpu, roof.dtype, str(calculate))


_hardware = hardware  # the keyword of the same name hides it


def _reasons(model: nn.Module, pattern: MaskCalculator, dtype: str, names: Names) -> dict[str, str]:
    """Why no kernel would take each layer; empty where one would."""
    layers = list(layer_weights(model))
    if not layers:
        raise ValueError(f"this {type(model).__name__} has no Linear, convolution or attention layer to forecast")
    names.check(model, layers)
    return {layer.name: names.why_not(layer) or refusal(layer, pattern, dtype) for layer in layers}


def _batches(batch: int | Sequence[int] | None, example_inputs: Any) -> list[int]:
    if batch is None:
        return [examples_in(example_inputs)]
    sizes: list[Any] = list(batch) if isinstance(batch, Iterable) else [batch]
    if not sizes:
        raise ValueError("batch=[] names no batch: give numbers of examples, [1, 64]")
    return sizes


@dataclass(frozen=True)
class _OfBatch:
    """The rows of one batch."""

    rows: list[dict[str, Any]]
    whole: dict[str, Any]
    rest: list[dict[str, Any]]


def _of_batch(found: list[Operation], batch: int, reasons: Mapping[str, str], roof: Roofline) -> _OfBatch:
    corners = Corners.of(roof.attained)
    by_layer, others = _apart(found)
    times = {name: _summed(ran, corners, roof, kernel=not reasons[name]) for name, ran in by_layer.items()}
    rest = {name: _summed(ran, corners, roof, kernel=False) for name, ran in others.items()}
    total = sum([*times.values(), *rest.values()], none())
    # The corner at which all runs at its peak, and nothing is wasted: shares of time are those there.
    best = int(np.argmin(total.dense))
    rows = [
        _row(name, by_layer[name], batch, reasons[name], times[name], float(total.dense[best]), best, roof)
        for name in by_layer
    ]
    taken = [name for name in by_layer if not reasons[name]]
    host = roof.attained.host_us * sum(len(by_layer[name]) for name in taken)
    touched = sum(float(times[name].dense[best]) for name in taken) / float(total.dense[best])
    whole = {
        "batch": batch,
        "layers": len(by_layer),
        "taken": len(taken),
        "flops": sum(each.flops for each in found),
        **_bounds(total),
        "touched_percent": 100 * touched,
        "host_speedup_lower": float((total.dense / (total.sparse + host)).min()),
    }
    return _OfBatch(rows, whole, _rest(rows, rest, float(total.dense[best]), best, batch))


def _apart(found: Iterable[Operation]) -> tuple[dict[str, list[Operation]], dict[str, list[Operation]]]:
    """What ran by the layer whose weight it multiplies with, and all else by its name."""
    by_layer: dict[str, list[Operation]] = {}
    others: dict[str, list[Operation]] = {}
    for operation in found:
        if operation.layer is not None:
            by_layer.setdefault(operation.layer, []).append(operation)
        else:
            others.setdefault(operation.name, []).append(operation)
    return by_layer, others


def _summed(ran: Iterable[Operation], corners: Corners, roof: Roofline, *, kernel: bool) -> Times:
    return sum((roof.times(each, corners, kernel=kernel) for each in ran), none())


def _bounds(times: Times) -> dict[str, float]:
    spans: dict[str, Array] = {"dense_us": times.dense, "sparse_us": times.sparse, "speedup": times.speedup}
    return {f"{name}_{end}": float(getattr(span, how)()) for name, span in spans.items() for end, how in _ENDS}


_ENDS = (("lower", "min"), ("upper", "max"))


def _row(
    name: str, ran: list[Operation], batch: int, reason: str, times: Times, total: float, best: int, roof: Roofline
) -> dict[str, Any]:
    largest = max(ran, key=lambda each: each.flops)
    flops, moved = sum(each.flops for each in ran), sum(roof.bytes(each) for each in ran)
    return {
        "layer": name,
        "batch": batch,
        "outputs": largest.outputs,
        "channels": largest.channels,
        "positions": largest.positions,
        "tokens": largest.tokens,
        "flops": flops,
        "bytes": moved,
        "intensity": flops / moved,
        "bound": "memory" if flops / moved < roof.ridge else "arithmetic",
        "kernel": "" if reason else KERNEL,
        "reason": reason,
        **_bounds(times),
        "share_percent": 100 * float(times.dense[best]) / total,
        "published": "" if reason else nearest(largest.outputs, largest.channels, largest.tokens),
    }


def _rest(
    rows: list[dict[str, Any]], others: Mapping[str, Times], total: float, best: int, batch: int
) -> list[dict[str, Any]]:
    """The shares of dense time that no sparse kernel touches, by what they are."""
    shares: dict[str, float] = {}
    for row in rows:
        if row["reason"]:
            what = _what(row)
            shares[what] = shares.get(what, 0.0) + row["share_percent"]
    for name, times in others.items():
        what = (
            "attention between activations"
            if "dot_product" in name or name == "bmm"
            else "what is done number by number"
        )
        shares[what] = shares.get(what, 0.0) + 100 * float(times.dense[best]) / total
    return [{"batch": batch, "what": what, "share_percent": share} for what, share in shares.items()]


def _what(row: Mapping[str, Any]) -> str:
    if row["channels"] == 1 and row["positions"] > 1:
        return "depthwise convolutions"
    if row["positions"] > 1:
        return "convolutions wider than 1x1"
    if row["reason"] in ("not in include", "in exclude"):
        return "layers that stay dense"
    return "layers that no kernel takes as they are"
