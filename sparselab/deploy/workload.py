"""What a model does on some inputs: one entry for every operator, with its flops, what it reads and what it writes.

Only shapes are needed, so the model runs on fake tensors: nothing is computed, and neither the size
of the model nor the batch matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sparselab.core.layers import layer_weights
from sparselab.core.models import CannotRunError, buffers_kept, evaluating, running
from sparselab.network.tracing import as_call, no_fused_attention, quietly, restored


@dataclass(frozen=True)
class Operation:
    """An operator that ran.

    ``layer`` is the name of the weight that it multiplies with, ``None`` for all else. Such a
    product makes ``outputs`` of each of ``tokens`` (examples, positions of a picture) from
    ``channels`` numbers at each of ``positions`` of a kernel, in each of ``groups`` by itself.
    ``read`` and ``written`` count numbers, without the weight, which has ``weights``.
    """

    name: str
    layer: str | None
    flops: float
    weights: int
    read: int
    written: int
    outputs: int = 0
    channels: int = 0
    tokens: int = 0
    positions: int = 1
    groups: int = 1


def operations(model: nn.Module, example_inputs: Any, batch: int | None = None) -> list[Operation]:
    """Every operator of one forward pass of ``model``, in order, in evaluation mode.

    ``batch`` has the first dimension of every input be that long instead, where all have the same.
    The model is left as it was. Memory: shapes only; a model whose shapes depend on values (experts
    that tokens are sent to) runs as it is, on its inputs. Raises ``ValueError`` for inputs without
    a common first dimension where ``batch`` is given, and ``CannotRunError`` where the model fails.
    """
    if batch is not None:
        example_inputs = of_batch(example_inputs, batch)
    said = "Pass what model(...) takes: a tensor, a tuple or a mapping"
    with (
        torch.no_grad(),
        evaluating(model),
        restored(model),
        quietly(),
        no_fused_attention(),
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    ):
        try:
            with running(model, "example inputs, of which only shapes are kept", said):
                return _on_shapes(model, example_inputs)
        except CannotRunError as error:
            if not isinstance(error.__cause__, (DynamicOutputShapeException, DataDependentOutputException)):
                raise
        with buffers_kept(model), running(model, "example inputs", said):
            return _on_values(model, example_inputs)


def of_batch(example_inputs: Any, batch: int) -> Any:
    """``example_inputs`` with ``batch`` examples: the first of each tensor, as often as it takes."""
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise ValueError(f"batch={batch!r}: give a number of examples, 1 or more")
    leaves = [leaf for leaf in tree_leaves(as_call(example_inputs)) if isinstance(leaf, Tensor)]
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"batch={batch} needs inputs with one first dimension, that of the examples; got tensors of "
            f"{[tuple(leaf.shape) for leaf in leaves]}: pass inputs of that batch instead"
        )
    return tree_map(
        lambda leaf: leaf[:1].expand(batch, *leaf.shape[1:]) if isinstance(leaf, Tensor) else leaf, example_inputs
    )


def examples_in(example_inputs: Any) -> int:
    """The first dimension of the first tensor in ``example_inputs``: how many examples these are."""
    leaves = (leaf for leaf in tree_leaves(as_call(example_inputs)) if isinstance(leaf, Tensor) and leaf.ndim)
    return next((int(leaf.shape[0]) for leaf in leaves), 1)


def _on_shapes(model: nn.Module, example_inputs: Any) -> list[Operation]:
    args, kwargs = as_call(example_inputs)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        fakes = {id(tensor): _fake(tensor) for tensor in own.values()}
        held = {name: fakes[id(tensor)] for name, tensor in own.items()}
        args, kwargs = tree_map(lambda leaf: _fake(leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        recording = _Recording(_layers(model, fakes))
        with recording, mode:
            functional_call(model, held, args, kwargs, strict=False)
    return recording.found


def _on_values(model: nn.Module, example_inputs: Any) -> list[Operation]:
    args, kwargs = as_call(example_inputs)
    recording = _Recording(_layers(model, {}))
    with recording:
        model(*args, **kwargs)
    return recording.found


def _fake(tensor: Tensor) -> Tensor:
    """A tensor of that shape on the CPU, within a fake mode: wherever a model is, its shapes are the same."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


def _layers(model: nn.Module, fakes: Mapping[int, Tensor]) -> dict[int, str]:
    """The names of layers' weights by the storage that holds them, which views of them share."""
    found: dict[int, str] = {}
    for layer in layer_weights(model):
        weight = fakes.get(id(layer.weight), layer.weight)
        found.setdefault(_storage(weight), layer.name)
    return found


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that reads or writes numbers."""

    def __init__(self, layers: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operation] = []
        self._layers = layers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            name = func.overloadpacket.__name__
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if outputs and inputs and name not in _FREE:
                self.found.append(self._operation(name, args, inputs, outputs))
        return result

    def _operation(self, name: str, args: Any, inputs: list[Tensor], outputs: list[Tensor]) -> Operation:
        written = sum(tensor.numel() for tensor in outputs)
        if name in _FACTORS:
            first, second = (args[position] for position in _FACTORS[name])
            return self._product(name, first, second, written)
        if name in ("convolution", "_convolution"):
            return self._convolution(name, *args[:2], transposed=args[6], groups=args[8], made=outputs[0])
        read = sum(tensor.numel() for tensor in inputs)
        if name == "embedding":  # of the table, only what is looked up
            read = written
        flops = float(max(read, written))
        if name.startswith("_scaled_dot_product"):
            query, key, value = args[:3]
            flops = 2.0 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return Operation(name, None, flops, 0, read, written)

    def _product(self, name: str, first: Tensor, second: Tensor, written: int) -> Operation:
        """``first @ second``, of which one may be a layer's weight, or both activations."""
        channels, batch = first.shape[-1], first.shape[:-2].numel()
        flops = 2.0 * first.shape[:-1].numel() * channels * second.shape[-1]
        on_left = self._layers.get(_storage(first))
        layer = self._layers.get(_storage(second)) or on_left
        if layer is None:
            return Operation(name, None, flops, 0, first.numel() + second.numel(), written)
        weight, other = (first, second) if on_left is not None else (second, first)
        outputs = weight.numel() // (batch * channels)
        tokens = other.numel() // (batch * channels)
        return Operation(
            name, layer, flops, weight.numel(), other.numel(), written, outputs, channels, tokens, groups=batch
        )

    def _convolution(
        self, name: str, given: Tensor, kernel: Tensor, *, transposed: bool, groups: int, made: Tensor
    ) -> Operation:
        positions = kernel.shape[2:].numel()
        tokens = (given if transposed else made).shape[0] * (given if transposed else made).shape[2:].numel()
        channels, outputs = kernel.shape[1], kernel.shape[0] // groups
        if transposed:
            channels, outputs = kernel.shape[0] // groups, kernel.shape[1]
        flops = 2.0 * tokens * kernel.numel()
        layer = self._layers.get(_storage(kernel))
        return Operation(
            name,
            layer,
            flops,
            kernel.numel(),
            given.numel(),
            made.numel(),
            outputs,
            channels,
            tokens,
            positions,
            groups,
        )


_FACTORS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
"""Matrix products, and which arguments are the factors."""

_FREE = {
    "detach",
    "_unsafe_view",
    "empty",
    "empty_like",
    "sym_size",
    "_local_scalar_dense",
    "lift_fresh",
    "is_same_size",
}
"""Operators that move nothing."""
