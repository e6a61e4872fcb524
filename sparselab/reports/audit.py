"""Is a model, a state dict or a file really N:M, and would a kernel take it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sparselab.core.files import read_checkpoint
from sparselab.core.layers import layer_weights
from sparselab.core.readable import require_some_values, shape_of, why_unreadable
from sparselab.core.sharding import whole
from sparselab.core.weight_matrix import to_slices
from sparselab.masks import AnyPattern, MaskCalculator, calculator


@dataclass(frozen=True, eq=False)
class _Stored:
    """A weight to audit; ``channel_dims`` has more than one entry where a bare tensor cannot tell which it is."""

    name: str
    weight: Tensor
    channel_dims: tuple[int, ...]
    unreadable: str | None = None


def check(model: nn.Module | Mapping[str, Any] | str | Path, pattern: AnyPattern = "2:4") -> pd.DataFrame:
    """Is every layer really N:M, and would a 2:4 kernel take it? One row per layer.

    ``model``: a module, a state dict, or a file (``.safetensors``, or what ``torch.save`` wrote,
    read with ``weights_only``). Columns:
    ``layer, shape, dtype, channel_dim, density, groups, violations, sparse, kernel, reason``.
    ``violations`` counts the ``groups`` with more than N non-zeros (2d patterns have groups along
    the outputs as well, V:N:M counts blocks with more than four columns too), ``sparse`` is true
    where there are none (as in a depthwise convolution, dense as it is), ``kernel`` is true where
    PyTorch's semi-structured kernels (cuSPARSELt, half precision, float8 or int8) accept the matrix
    (a wider one is judged as the half-precision copy that has to be made of it), and ``reason``
    says what stands in the way. A state dict does not tell transposed layers: where input channels
    in dimension 0 fit and those in 1 do not, the row says ``channel_dim`` 0. A weight that cannot
    be read (quantised, offloaded, not loaded yet) is not ``sparse``; its row has the reason, and NaN
    for what would be counted. One that is sharded (``DTensor``) is gathered, so every process has
    to call this. Raises ``ValueError`` for patterns without groups, unknown ones, what holds no
    weights, a model none of whose weights is there yet, and files it cannot read.

    >>> layer = nn.Linear(4, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1., 2, 0, 0], [0, 1, 1, 1]]))
    >>> check(layer)[["layer", "violations", "sparse"]].to_dict("records")
    [{'layer': 'weight', 'violations': 1, 'sparse': False}]
    """
    calculate = calculator(pattern)
    calculate.violations(torch.zeros(0, *calculate.multiples))  # a pattern without groups is refused here
    rows = []
    for stored in _stored_weights(model):
        if stored.unreadable is not None:
            rows.append(_unreadable_row(stored, stored.unreadable))
            continue
        counted = {dim: calculate.violations(to_slices(stored.weight, dim)) for dim in stored.channel_dims}
        channel_dim = min(counted, key=lambda dim: counted[dim].count > 0)
        found = counted[channel_dim]
        reason = _kernel_refusal(stored.weight, calculate, channel_dim)
        if found.count:
            reason = f"{found.count} of {found.groups} groups {found.rule}"
        rows.append(
            {
                "layer": stored.name,
                "shape": tuple(stored.weight.shape),
                "dtype": str(stored.weight.dtype).removeprefix("torch."),
                "channel_dim": channel_dim,
                "density": float((stored.weight != 0).sum()) / max(1, stored.weight.numel()),
                "groups": found.groups,
                "violations": found.count,
                "sparse": found.count == 0,
                "kernel": reason is None,
                "reason": reason or "",
            }
        )
    columns = [
        "layer",
        "shape",
        "dtype",
        "channel_dim",
        "density",
        "groups",
        "violations",
        "sparse",
        "kernel",
        "reason",
    ]
    frame = pd.DataFrame(rows, columns=columns).astype({"sparse": bool, "kernel": bool})
    frame.attrs = {"pattern": str(calculate)}
    return frame


def _unreadable_row(stored: _Stored, reason: str) -> dict[str, Any]:
    nothing = float("nan")
    return {
        "layer": stored.name,
        "shape": shape_of(stored.weight),
        "dtype": str(stored.weight.dtype).removeprefix("torch."),
        "channel_dim": stored.channel_dims[0],
        "density": nothing,
        "groups": nothing,
        "violations": nothing,
        "sparse": False,
        "kernel": False,
        "reason": reason,
    }


# What torch.sparse.to_sparse_semi_structured asks of a matrix through cuSPARSELt: rows and columns multiples of this.
_KERNEL_MULTIPLE = {torch.float16: 16, torch.bfloat16: 16, torch.int8: 32, torch.float8_e4m3fn: 32}


def _kernel_refusal(weight: Tensor, calculate: MaskCalculator, channel_dim: int) -> str | None:
    channels = weight.shape[channel_dim]
    if calculate.nm is not None and channels <= calculate.nm[0]:
        return (
            f"too few input channels ({channels}) for a group to hold more than {calculate.nm[0]}: "
            "nothing to prune here"
        )
    if calculate.nm != (2, 4):
        return f"kernels exist for 2:4, not for {_sizes(calculate)}"
    if weight.shape[2:].numel() > 1:
        return "PyTorch's kernel multiplies matrices: a convolution wider than 1x1 needs TensorRT"
    multiple = _KERNEL_MULTIPLE.get(weight.dtype, 16)
    rows = weight.shape[1 - channel_dim]
    if rows % multiple or channels % multiple:
        return f"{rows} x {channels}: the kernel wants multiples of {multiple}"
    return None


def _sizes(calculate: MaskCalculator) -> str:
    return str(calculate) if calculate.nm is None else "{}:{}".format(*calculate.nm)


def _stored_weights(model: nn.Module | Mapping[str, Any] | str | Path) -> Iterator[_Stored]:
    if isinstance(model, nn.Module):
        layers = list(layer_weights(model))
        require_some_values(layers)
        for layer in layers:
            yield _stored(layer.name, layer.weight, (layer.channel_dim,), layer.module)
        return
    if not isinstance(model, (Mapping, str, Path)):
        raise ValueError(f"check takes a module, a state dict or a file, got {type(model).__name__}")
    state = model if isinstance(model, Mapping) else _load_state(Path(model))
    for name, tensor in state.items():
        is_weight = isinstance(tensor, Tensor) and tensor.ndim >= 2 and str(name).endswith("weight")
        if is_weight and (tensor.is_floating_point() or tensor.dtype == torch.int8):
            yield _stored(str(name), tensor, (1, 0))


def _stored(name: str, tensor: Tensor, channel_dims: tuple[int, ...], module: nn.Module | None = None) -> _Stored:
    reason = why_unreadable(tensor, module)
    return _Stored(name, whole(tensor.detach()) if reason is None else tensor, channel_dims, reason)


def _load_state(path: Path) -> Mapping[str, Any]:
    loaded = read_checkpoint(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return loaded
