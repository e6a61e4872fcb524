"""What it costs to re-index the input of a layer: measured on what the examples give it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from sparselab.core.layers import LayerWeight
from sparselab.core.models import buffers_kept, cuda_devices, evaluating
from sparselab.core.shapes import Shape
from sparselab.network.examples import several
from sparselab.network.gathers import input_dim
from sparselab.network.tracing import as_call, restored

_RUNS = 5  # the fastest counts: whatever else the machine does only adds


@dataclass(frozen=True)
class Price:
    """What a gather costs in one forward pass of the examples.

    ``calls`` of the layer, ``bytes`` read and written by them all, ``index_bytes`` to keep, and
    ``microseconds``, beside those of the layer itself (``layer_microseconds``).
    """

    calls: int = 0
    bytes: int = 0
    index_bytes: int = 0
    microseconds: float = math.nan
    layer_microseconds: float = math.nan


@dataclass
class Uses:
    """What a forward pass showed of some weights, by name: the ``inputs`` of their layers' calls, and
    which of them were read by something else than their layer (``elsewhere``)."""

    inputs: dict[str, list[Shape]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)

    def why_not(self, name: str) -> str | None:
        """Why the layer of the weight ``name`` cannot be given its input in another order, or ``None``."""
        if name in self.elsewhere:
            return "its weight is also read outside of its layer, which a hook does not see"
        return None if name in self.inputs else "its layer is not called on these inputs, where a hook would see it"


class _Reading(TorchFunctionMode):
    """Notes in ``uses`` which weights a function is given while their layer does not run."""

    def __init__(self, layers: Iterable[LayerWeight], uses: Uses) -> None:
        super().__init__()
        self._names = {id(layer.weight): layer.name for layer in layers}
        self._uses = uses
        self.running: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(isinstance(each, Tensor) for each in tree_leaves(result)):  # else it asked for a dtype or a shape
            given = {self._names.get(id(each)) for each in tree_leaves((args, kwargs))}
            self._uses.elsewhere |= {name for name in given if name is not None and name not in self.running}
        return result


def uses_of(model: nn.Module, example_inputs: Any, layers: Sequence[LayerWeight]) -> Uses:
    """Run ``model`` on every example, in evaluation mode, and note how the weights of ``layers`` are used.

    The model is left as it was. Raises whatever it raises.
    """
    uses = Uses()
    reading = _Reading(layers, uses)
    with ExitStack() as stack:
        for layer in layers:
            before, behind = _noting(layer, uses, reading.running)
            stack.callback(layer.module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(layer.module.register_forward_hook(behind).remove)
        random_state_kept = torch.random.fork_rng(cuda_devices(model))
        for context in (restored(model), evaluating(model), random_state_kept, torch.no_grad(), buffers_kept(model)):
            stack.enter_context(context)
        with reading:
            for example in several(example_inputs):
                args, kwargs = as_call(example)
                model(*args, **kwargs)
    return uses


def _noting(layer: LayerWeight, uses: Uses, running: list[str]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks before and behind a layer."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        uses.inputs.setdefault(layer.name, []).append(Shape.of(given))
        running.append(layer.name)

    def behind(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        running.remove(layer.name)

    return before, behind


def price(layer: LayerWeight, inputs: Sequence[Shape], measured: dict[Any, tuple[float, float]]) -> Price:
    """The price of a gather for ``layer``, which is given ``inputs`` in a forward pass.

    Calls alike are ``measured`` once, and kept there.
    """
    channels = layer.weight.shape[layer.channel_dim]
    each = []
    for given in inputs:
        key = (type(layer.module), tuple(layer.weight.shape), input_dim(layer.module), given)
        if key not in measured:
            measured[key] = _measure(layer.module, given, channels)
        each.append(measured[key])
    moved = sum(2 * math.prod(given.size) * given.dtype.itemsize for given in inputs)
    return Price(len(inputs), moved, channels * torch.int64.itemsize, sum(t for t, _ in each), sum(t for _, t in each))


def _measure(module: nn.Module, given: Shape, channels: int) -> tuple[float, float]:
    """The microseconds that it takes to re-index such an input, and those of the layer's own work on it."""
    inputs, dim = given.zeros(), input_dim(module)
    index = torch.arange(channels - 1, -1, -1, device=given.device)
    with torch.no_grad():
        return (
            _fastest(lambda: inputs.index_select(dim, index), given.device),
            _fastest(lambda: module.forward(inputs), given.device),
        )


def _fastest(work: Callable[[], Any], device: torch.device) -> float:
    """The microseconds of the fastest of a few runs of ``work``."""

    def seconds() -> float:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - start

    seconds()  # the first one allocates
    return 1e6 * min(seconds() for _ in range(_RUNS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
