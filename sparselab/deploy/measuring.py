"""What 2:4 does to the speed of a network, measured on the GPU that is there."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.sparse import to_sparse_semi_structured

from sparselab.core.models import as_eager, evaluating, to_device
from sparselab.deploy.forecasting import Forecast, forecast
from sparselab.deploy.hardware import Hardware, attained, hardware, hardware_names
from sparselab.deploy.published import speedup_bounds
from sparselab.deploy.semi_structured import to_semi_structured
from sparselab.masks import create_mask
from sparselab.network.examples import example_of
from sparselab.network.tracing import as_call

WARM_UP, REPEATS = 10, 30
COLUMNS = [
    *("layer", "outputs", "channels", "tokens", "dense_us", "sparse_us", "speedup"),
    *("speedup_lower", "speedup_upper", "inside", "difference"),
]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What ``benchmark`` measured.

    ``frame`` has one row for each layer that a sparse kernel takes; ``dense_us`` and ``sparse_us``
    are the times of one pass of the whole model, in microseconds. ``device`` names the GPU,
    ``clocks_mhz`` its clock before and after, where the driver tells. ``forecast`` is that for the
    same model; ``None`` where the GPU is none that is known.
    """

    frame: pd.DataFrame
    dense_us: float
    sparse_us: float
    dtype: str
    device: str
    clocks_mhz: tuple[int, int] | None
    forecast: Forecast | None

    def __str__(self) -> str:
        rows = self.frame
        clocks = "" if self.clocks_mhz is None else f", {self.clocks_mhz[0]} to {self.clocks_mhz[1]} MHz"
        expected = "" if self.forecast is None else f" {self.forecast.sentence}"
        return (
            f"{self.device}{clocks}: the model takes {self.dense_us:,.0f} us dense and {self.sparse_us:,.0f} us sparse, "
            f"{self.dense_us / self.sparse_us:.2f} times as fast; its {len(rows)} sparse layers by themselves "
            f"{rows['dense_us'].sum():,.0f} and {rows['sparse_us'].sum():,.0f} us.{expected}"
        )


def benchmark(
    model: nn.Module, example_inputs: Any, *, dtype: torch.dtype = torch.float16, hardware: str | Hardware | None = None
) -> Benchmark:
    """Dense against 2:4, layer by layer, on the GPU that is there, beside what ``forecast`` says.

    A copy of the model in ``dtype`` runs on the current CUDA device, as it is and with every layer
    that a sparse kernel takes pruned by magnitude and packed (``to_semi_structured``). Each of these
    layers is timed by itself too, as a matrix product of its size with random inputs: CUDA
    events, 10 calls to warm up, the median of 30. Columns: ``layer, outputs, channels, tokens, dense_us, sparse_us, speedup``,
    ``speedup_lower`` and ``speedup_upper`` as forecast, ``inside`` (whether the measurement is between them) and
    ``difference`` (the largest one of an output, over the root mean square). ``hardware`` says
    which GPU it is, where its name does not tell.

    Raises ``ValueError`` without a CUDA device: nothing is estimated in its place, that is what
    ``sl.forecast`` is for. Times are not deterministic. Memory: a copy of the model on the GPU.
    """
    as_eager(model, "benchmark")
    if not torch.cuda.is_available():
        raise ValueError(
            "benchmark measures on a CUDA device, and there is none here: sl.forecast(model, example_inputs, "
            "hardware='h100') says what to expect of one"
        )
    example_inputs = example_of(example_inputs, model, "benchmark")
    device, name = torch.device("cuda", torch.cuda.current_device()), torch.cuda.get_device_name()
    gpu = _gpu(name) if hardware is None else _hardware(hardware)
    precision = str(dtype).removeprefix("torch.")
    expected = forecast(model, example_inputs, hardware=gpu or "h100", dtype=precision)
    clock = _clock()
    taken = expected.frame[expected.frame["kernel"] != ""]
    dense_us, sparse_us = _model_us(model, example_inputs, list(taken["layer"]), device, dtype)
    rows = [_row(row, model, device, dtype, gpu) for row in taken.to_dict("records")]
    clocks = None if clock is None else (clock, _clock() or clock)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return Benchmark(frame, dense_us, sparse_us, precision, name, clocks, expected if gpu else None)


_hardware = hardware  # the keyword of the same name hides it


def _gpu(name: str) -> Hardware | None:
    """The hardware whose facts are known by the name that the driver gives; ``None`` where none is."""
    plain = name.lower().replace(" ", "").replace("geforce", "")
    found = [key for key in hardware_names() if key.split("-")[0] in plain]
    pcie = [key for key in found if "pcie" in key and "pcie" in plain]
    small = [key for key in found if key.endswith("40gb") and "40gb" in plain]
    chosen = pcie or small or sorted(found, key=lambda key: (-len(key.split("-")[0]), "-" in key))
    return hardware(chosen[0]) if chosen else None


def _row(row: dict[Any, Any], model: nn.Module, device: torch.device, dtype: torch.dtype, gpu: Hardware | None) -> Any:
    weight = model.get_parameter(row["layer"]).detach().flatten(1).to(device, dtype)
    weight = (weight * create_mask(weight, "2:4")).contiguous()
    inputs = torch.randn(row["tokens"], row["channels"], device=device, dtype=dtype)
    packed = to_sparse_semi_structured(weight)
    with torch.no_grad():
        dense_us = median_us(lambda: nn.functional.linear(inputs, weight))
        sparse_us = median_us(lambda: nn.functional.linear(inputs, packed))
        expected, found = (nn.functional.linear(inputs, each).double() for each in (weight, packed))
    sizes = (row["outputs"], row["channels"], row["tokens"])
    bounds = speedup_bounds(*sizes, gpu, str(dtype).removeprefix("torch."), attained()) if gpu else (float("nan"),) * 2
    return {
        **{key: row[key] for key in ("layer", "outputs", "channels", "tokens")},
        "dense_us": dense_us,
        "sparse_us": sparse_us,
        "speedup": dense_us / sparse_us,
        "speedup_lower": bounds[0],
        "speedup_upper": bounds[1],
        "inside": bounds[0] <= dense_us / sparse_us <= bounds[1],
        "difference": float((found - expected).abs().max() / expected.square().mean().sqrt()),
    }


def _model_us(
    model: nn.Module, example_inputs: Any, layers: list[str], device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """The times of a copy of ``model``: as it is, and with ``layers`` pruned and packed."""
    run = copy.deepcopy(model).to(device, dtype)
    args, kwargs = to_device(as_call(example_inputs), device)
    args, kwargs = torch.utils._pytree.tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf,
        (args, kwargs),
    )
    with torch.no_grad(), evaluating(run):
        dense_us = median_us(lambda: run(*args, **kwargs))
        for layer in layers:
            weight = run.get_parameter(layer)
            weight.mul_(create_mask(weight, "2:4"))
        if layers:
            to_semi_structured(run, include=layers)
        return dense_us, median_us(lambda: run(*args, **kwargs))


def median_us(call: Callable[[], object]) -> float:
    """The median time of ``call`` on the current CUDA device, in microseconds, by events around each."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end))
    return statistics.median(times)


def _clock() -> int | None:
    """The clock of the processors in MHz, where the driver's library for that is installed."""
    try:
        return int(torch.cuda.clock_rate())
    except (ModuleNotFoundError, RuntimeError):
        return None
