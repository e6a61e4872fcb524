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
from sparselab.core.patterns import Pattern
from sparselab.core.weight_matrix import to_slices
from sparselab.masks import calculator
from sparselab.reports.values import values_of


@dataclass(frozen=True, eq=False)
class _Stored:
    """A weight to audit; ``channel_dims`` has more than one entry where a bare tensor cannot tell which it is."""

    name: str
    weight: Tensor
    channel_dims: tuple[int, ...]


def check(model: nn.Module | Mapping[str, Any] | str | Path, pattern: str | Pattern = "2:4") -> pd.DataFrame:
    """Is every layer really N:M, and would a 2:4 kernel take it? A row a layer.

    ``model``: a module, a state dict, or a file (``.safetensors``, or what ``torch.save`` wrote, read with
    ``weights_only``). Columns: ``layer, shape, dtype, channel_dim, density, groups, violations, sparse, kernel,
    reason``. ``violations`` counts the ``groups`` with more than N non-zeros (2d patterns have groups along the outputs as
    well, V:N:M counts blocks with more than four columns too), ``sparse`` is true where there are none (as in
    a depthwise convolution, dense as it is), ``kernel`` is true
    where PyTorch's semi-structured kernels (cuSPARSELt, half precision, float8 or int8) accept the matrix (a wider one is
    judged as the half-precision copy that has to be made of it), and ``reason`` says what stands in the way. A state dict
    does not tell transposed layers: where input channels in dimension 0 fit and those in 1 do not, the row says
    ``channel_dim`` 0. Raises ``ValueError`` for patterns without groups, unknown ones, what holds no weights, weights that
    are not there yet, and files it cannot read.

    >>> layer = nn.Linear(4, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1., 2, 0, 0], [0, 1, 1, 1]]))
    >>> check(layer)[["layer", "violations", "sparse"]].to_dict("records")
    [{'layer': 'weight', 'violations': 1, 'sparse': False}]
    """
    pattern = Pattern.parse(pattern)
    n, _ = pattern.require_nm("check")
    calculator(pattern)
    rows = []
    for stored in _stored_weights(model):
        counted = {dim: _violations(stored.weight, pattern, dim) for dim in stored.channel_dims}
        channel_dim = min(counted, key=lambda dim: counted[dim][0] > 0)
        violations, groups = counted[channel_dim]
        reason = _kernel_refusal(stored.weight, pattern, channel_dim)
        if violations:
            reason = f"{violations} of {groups} groups keep more than {n}"
        rows.append(
            {
                "layer": stored.name,
                "shape": tuple(stored.weight.shape),
                "dtype": str(stored.weight.dtype).removeprefix("torch."),
                "channel_dim": channel_dim,
                "density": float((stored.weight != 0).sum()) / max(1, stored.weight.numel()),
                "groups": groups,
                "violations": violations,
                "sparse": violations == 0,
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
    frame.attrs = {"pattern": str(pattern)}
    return frame


def _violations(weight: Tensor, pattern: Pattern, channel_dim: int) -> tuple[int, int]:
    """How many groups hold more than N non-zeros, and how many groups there are: of columns, for 2d patterns of rows as well,
    and for V:N:M the blocks, which hold four columns at most."""
    n, m = pattern.require_nm("check")
    slices = to_slices(weight, channel_dim) != 0
    over = [
        _groups(side, m).sum(-1) > n for side in ([slices, slices.transpose(1, 2)] if pattern.both_ways else [slices])
    ]
    if pattern.v is not None:
        used = _groups(slices.transpose(1, 2), pattern.v).any(-1).transpose(1, 2)
        over.append(_groups(used, m).sum(-1) > 4)
    return sum(int(groups.sum()) for groups in over), sum(groups.numel() for groups in over)


def _groups(slices: Tensor, size: int) -> Tensor:
    """The last dimension cut into groups of ``size``, the last one filled up: ``(..., groups, size)``."""
    padded = torch.nn.functional.pad(slices, (0, -slices.shape[-1] % size))
    return padded.reshape(*padded.shape[:-1], padded.shape[-1] // size, size)


# What torch.sparse.to_sparse_semi_structured asks of a matrix through cuSPARSELt: rows and columns multiples of this.
_KERNEL_MULTIPLE = {torch.float16: 16, torch.bfloat16: 16, torch.int8: 32, torch.float8_e4m3fn: 32}


def _kernel_refusal(weight: Tensor, pattern: Pattern, channel_dim: int) -> str | None:
    channels = weight.shape[channel_dim]
    if pattern.n is not None and channels <= pattern.n:
        return f"too few input channels ({channels}) for a group to hold more than {pattern.n}: nothing to prune here"
    if (pattern.n, pattern.m) != (2, 4):
        return f"kernels exist for 2:4, not for {pattern.n}:{pattern.m}"
    if weight.shape[2:].numel() > 1:
        return "PyTorch's kernel multiplies matrices: a convolution wider than 1x1 needs TensorRT"
    multiple = _KERNEL_MULTIPLE.get(weight.dtype, 16)
    rows = weight.shape[1 - channel_dim]
    if rows % multiple or channels % multiple:
        return f"{rows} x {channels}: the kernel wants multiples of {multiple}"
    return None


def _stored_weights(model: nn.Module | Mapping[str, Any] | str | Path) -> Iterator[_Stored]:
    if isinstance(model, nn.Module):
        for layer in layer_weights(model):
            yield _Stored(layer.name, values_of(layer), (layer.channel_dim,))
        return
    if not isinstance(model, (Mapping, str, Path)):
        raise ValueError(f"check takes a module, a state dict or a file, got {type(model).__name__}")
    state = model if isinstance(model, Mapping) else _load_state(Path(model))
    for name, tensor in state.items():
        is_weight = isinstance(tensor, Tensor) and tensor.ndim >= 2 and str(name).endswith("weight")
        if is_weight and (tensor.is_floating_point() or tensor.dtype == torch.int8):
            yield _Stored(str(name), tensor.detach(), (1, 0))


def _load_state(path: Path) -> Mapping[str, Any]:
    loaded = read_checkpoint(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return loaded
