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
from sparselab.core.layers import Custom, LayerWeight, TiedWeight, model_weights
from sparselab.core.weight_matrix import is_packed, matrix_dims, to_slices
from sparselab.masks import AnyPattern, MaskCalculator, calculator
from sparselab.masks.eligibility import why_not_pruned
from sparselab.reports.values import values_of


@dataclass(frozen=True, eq=False)
class _Stored:
    """A weight to audit.

    ``channel_dims`` has more than one entry where a bare tensor cannot tell which it is, and none
    where no layer is known to multiply the weight, which ``unknown`` says.
    """

    name: str
    weight: Tensor
    channel_dims: tuple[int, ...]
    unknown: str = ""


def check(
    model: nn.Module | Mapping[str, Any] | str | Path, pattern: AnyPattern = "2:4", *, custom: Custom | None = None
) -> pd.DataFrame:
    """Is every weight really N:M, and would a 2:4 kernel take it? One row per weight.

    ``model``: a module, a state dict, or a file (``.safetensors``, or what ``torch.save`` wrote,
    read with ``weights_only``). Columns:
    ``layer, shape, dtype, channel_dim, density, groups, violations, sparse, kernel, reason``.
    ``violations`` counts the ``groups`` with more than N non-zeros (2d patterns have groups along
    the outputs as well, V:N:M counts blocks with more than four columns too), ``sparse`` is true
    where there are none (as in a depthwise convolution, dense as it is), ``kernel`` is true where
    PyTorch's semi-structured kernels (cuSPARSELt, half precision, float8 or int8) accept the matrix
    (a wider one is judged as the half-precision copy that has to be made of it), and ``reason``
    says what stands in the way. A state dict does not tell transposed layers: where input channels
    in dimension 0 fit and those in 1 do not, the row says ``channel_dim`` 0.

    A weight of a module that no layer is known to multiply (an embedding, a recurrent layer, a raw
    parameter) cannot be judged, and is not ``sparse``: its ``channel_dim``, ``groups`` and
    ``violations`` are NaN, and ``reason`` says what it is. ``custom``, for modules only, tells the
    input channels of layer types of your own, as in ``Sparsifier``. Raises ``ValueError``
    for patterns without groups, unknown ones, what holds no weights, weights that are not there
    yet, and files it cannot read.

    >>> layer = nn.Linear(4, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1., 2, 0, 0], [0, 1, 1, 1]]))
    >>> check(layer)[["layer", "violations", "sparse"]].to_dict("records")
    [{'layer': 'weight', 'violations': 1, 'sparse': False}]
    """
    calculate = calculator(pattern)
    calculate.violations(torch.zeros(0, *calculate.multiples))  # a pattern without groups is refused here
    rows = [_row(stored, calculate) for stored in _stored_weights(model, custom)]
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


def _row(stored: _Stored, calculate: MaskCalculator) -> dict[str, Any]:
    """The row of one weight."""
    weight = stored.weight
    judged: dict[str, Any] = dict.fromkeys(("channel_dim", "groups", "violations"), float("nan"))
    sparse, reason = False, stored.unknown or None
    if stored.channel_dims:
        counted = {dim: calculate.violations(to_slices(weight, dim)) for dim in stored.channel_dims}
        channel_dim = min(counted, key=lambda dim: counted[dim].count > 0)
        found = counted[channel_dim]
        judged = {"channel_dim": channel_dim % weight.ndim, "groups": found.groups, "violations": found.count}
        sparse, reason = found.count == 0, _kernel_refusal(weight, calculate, channel_dim)
        if found.count:
            reason = f"{found.count} of {found.groups} groups {found.rule}"
    return {
        "layer": stored.name,
        "shape": tuple(weight.shape),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "density": float((weight != 0).sum()) / max(1, weight.numel()),
        **judged,
        "sparse": sparse,
        "kernel": reason is None,
        "reason": reason or "",
    }


# What torch.sparse.to_sparse_semi_structured asks of a matrix through cuSPARSELt: rows and columns multiples of this.
_KERNEL_MULTIPLE = {torch.float16: 16, torch.bfloat16: 16, torch.int8: 32, torch.float8_e4m3fn: 32}


def _kernel_refusal(weight: Tensor, calculate: MaskCalculator, channel_dim: int) -> str | None:
    _, output_dim, channels_at = matrix_dims(weight.ndim, channel_dim)
    rows, channels = weight.shape[output_dim], weight.shape[channels_at]
    if calculate.nm is not None and channels <= calculate.nm[0]:
        return (
            f"too few input channels ({channels}) for a group to hold more than {calculate.nm[0]}: "
            "nothing to prune here"
        )
    if calculate.nm != (2, 4):
        return f"kernels exist for 2:4, not for {_sizes(calculate)}"
    if is_packed(weight.ndim, channel_dim):
        return "PyTorch's kernel multiplies one matrix: packed experts have to be taken apart for it"
    if weight.shape[2:].numel() > 1:
        return "PyTorch's kernel multiplies matrices: a convolution wider than 1x1 needs TensorRT"
    multiple = _KERNEL_MULTIPLE.get(weight.dtype, 16)
    if rows % multiple or channels % multiple:
        return f"{rows} x {channels}: the kernel wants multiples of {multiple}"
    return None


def _sizes(calculate: MaskCalculator) -> str:
    return str(calculate) if calculate.nm is None else "{}:{}".format(*calculate.nm)


def _stored_weights(model: nn.Module | Mapping[str, Any] | str | Path, custom: Custom | None) -> Iterator[_Stored]:
    if isinstance(model, nn.Module):
        yield from _of_module(model, custom)
        return
    if not isinstance(model, (Mapping, str, Path)):
        raise ValueError(f"check takes a module, a state dict or a file, got {type(model).__name__}")
    state = model if isinstance(model, Mapping) else _load_state(Path(model))
    for name, tensor in state.items():
        is_weight = isinstance(tensor, Tensor) and tensor.ndim >= 2 and str(name).endswith("weight")
        if is_weight and (tensor.is_floating_point() or tensor.dtype == torch.int8):
            yield _Stored(str(name), tensor.detach(), (1, 0))


def _of_module(model: nn.Module, custom: Custom | None) -> Iterator[_Stored]:
    for weight in model_weights(model, custom):
        layer = weight.layer if isinstance(weight, TiedWeight) else weight
        if isinstance(layer, LayerWeight):
            yield _Stored(weight.name, values_of(weight), (layer.channel_dim,))
        else:
            yield _Stored(weight.name, values_of(weight), (), why_not_pruned(weight, None) or "")


def _load_state(path: Path) -> Mapping[str, Any]:
    loaded = read_checkpoint(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return loaded
