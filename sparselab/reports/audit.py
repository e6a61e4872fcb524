"""Is a model, a state dict or a file really N:M, and would a kernel take it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sparselab.core.kernel_limits import KERNEL_LIMITS
from sparselab.core.layers import Custom, LayerWeight, TiedWeight, is_recurrent, model_weights
from sparselab.core.measures import density
from sparselab.core.onnx_files import onnx_stored
from sparselab.core.progress import late_bar
from sparselab.core.readable import require_some_values, why_unreadable
from sparselab.core.stored import StoredWeight, packed_weights, state_in, stored_weights
from sparselab.core.weight_matrix import to_slices
from sparselab.masks import AnyPattern, MaskCalculator, Violations, calculator
from sparselab.masks.eligibility import why_not_pruned
from sparselab.reports.values import values_of


def check(
    model: nn.Module | ExportedProgram | Mapping[str, Any] | str | Path,
    pattern: AnyPattern = "2:4",
    *,
    entry: str | None = None,
    custom: Custom | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Is every layer really N:M, and would a 2:4 kernel take it? One row per weight.

    ``model``: a module, a state dict, an ``ExportedProgram``, or a checkpoint: a file
    (``.safetensors``, ``.pt2``, or what ``torch.save`` wrote, read with ``weights_only``), or a
    folder or ``*.index.json`` of a sharded one, of which one tensor at a time is in memory (of a
    ``.bin`` shard, the shard). Of an ``.onnx`` file every weight is judged as its operator
    multiplies with it (``docs/onnx.md``); that needs the extra ``onnx``. The state may lie in another mapping, as in ``{"net": state}``;
    ``entry`` says which is meant where several hold weights. ``docs/stored.md`` has the rules.
    Columns: ``layer, shape, dtype, channel_dim, density, groups, violations, sparse,
    is_sparse, kernel, reason``. ``violations`` counts the ``groups`` with more than N non-zeros (2d
    patterns have groups along the outputs as well, V:N:M counts blocks with more than four columns
    too), ``sparse`` is true where there are none (as in a depthwise convolution, dense as it is);
    ``is_sparse`` is the same under a name that pandas does not use itself. ``kernel`` is true where
    PyTorch's semi-structured kernels (cuSPARSELt, half precision, float8 or int8) accept the matrix
    (a wider one is judged as the half-precision copy that has to be made of it), and ``reason``
    says what stands in the way, and how a weight was put together that is stored in several tensors
    or packed. What cannot be read is not ``sparse``: its row has the reason, and NaN for what would be
    counted. What is sharded (``DTensor``) is gathered, so every process has to call this.
    A state dict does not tell transposed layers: where input channels in another
    dimension fit and those in 1 do not, the row says so in ``channel_dim``.

    Of a module every floating-point parameter of two or more dimensions has a row. One whose input
    channels are not known (an embedding, a raw parameter) cannot be judged and is not ``sparse``:
    ``channel_dim``, ``groups`` and ``violations`` are NaN, and ``reason`` says what it is.
    ``custom`` tells those of layer types of your own, as in ``Sparsifier``; it is for modules.
    A bar is shown after two seconds, if ``progress``.

    Raises ``ValueError`` for patterns without groups, unknown ones, what holds no weights or holds
    them in several places, weights that are not there yet, and files it cannot read.

    >>> layer = nn.Linear(4, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1., 2, 0, 0], [0, 1, 1, 1]]))
    >>> check(layer)[["layer", "violations", "is_sparse"]].to_dict("records")
    [{'layer': 'weight', 'violations': 1, 'is_sparse': False}]
    """
    calculate = calculator(pattern)
    calculate.violations(torch.zeros(0, *calculate.multiples))  # a pattern without groups is refused here
    found = late_bar("checking", "weight", _stored_weights(model, entry, custom), progress=progress)
    rows = [_row(stored, calculate) for stored in found]
    if not rows:
        raise ValueError(
            f"there are no weights in {_called(model)} that check could judge: floating or int8 tensors "
            "of two or more dimensions"
        )
    frame = pd.DataFrame(rows).astype({"sparse": bool, "is_sparse": bool, "kernel": bool})
    frame.attrs = {"pattern": str(calculate)}
    return frame


def _called(model: Any) -> str:
    return repr(str(model)) if isinstance(model, (str, Path)) else f"this {type(model).__name__}"


def _row(stored: StoredWeight, calculate: MaskCalculator) -> dict[str, Any]:
    """What the columns of ``check`` say of one weight."""
    weight, reason = stored.weight, stored.unreadable or None
    judged: dict[str, Any] = dict.fromkeys(("channel_dim", "groups", "violations"), float("nan"))
    share = density(weight) if reason is None else float("nan")
    is_sparse, reason = False, reason or stored.unjudged or None
    if reason is None:
        dim, found = _judged(stored, calculate)
        judged = {"channel_dim": dim % weight.ndim, "groups": found.groups, "violations": found.count}
        is_sparse, reason = found.count == 0 and weight.numel() > 0, _kernel_refusal(weight, calculate, dim)
        if not weight.numel():
            reason = "empty: no entry to judge"
        elif found.count:
            reason = f"{found.count} of {found.groups} groups {found.rule}{_unfit(weight, calculate, dim)}"
    return {
        "layer": stored.name,
        "shape": tuple(weight.shape),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "channel_dim": judged["channel_dim"],
        "density": share,
        "groups": judged["groups"],
        "violations": judged["violations"],
        "sparse": is_sparse,
        "is_sparse": is_sparse,
        "kernel": reason is None,
        "reason": "; ".join(filter(None, (stored.how, reason))),
    }


def _judged(stored: StoredWeight, calculate: MaskCalculator) -> tuple[int, Violations]:
    """The dimension of the input channels and the groups along it that break the pattern.

    Where it is not known, the first along which the weight keeps to the pattern, if any. A
    dimension too short to break it is none of these: along it every weight does.
    """
    first, *others = stored.channel_dims
    n = 0 if calculate.nm is None else calculate.nm[0]
    for dim in (first, *(dim for dim in others if stored.weight.shape[dim] > n)):
        found = calculate.violations(to_slices(stored.weight, dim))
        if not found.count:
            return dim, found
    return first, calculate.violations(to_slices(stored.weight, first))


def _unfit(weight: Tensor, calculate: MaskCalculator, channel_dim: int) -> str:
    """What of its shape keeps masks from ``weight``, to stand behind what it breaks; else nothing."""
    _, rows, channels = to_slices(torch.empty(weight.shape, device="meta"), channel_dim).shape
    why = calculate.why_not(rows, channels)
    return "" if why is None else f"; {why}"


def _kernel_refusal(weight: Tensor, calculate: MaskCalculator, channel_dim: int) -> str | None:
    positions, rows, channels = to_slices(torch.empty(weight.shape, device="meta"), channel_dim).shape
    if calculate.nm is not None and channels <= calculate.nm[0]:
        return (
            f"too few input channels ({channels}) for a group to hold more than {calculate.nm[0]}: "
            "nothing to prune here"
        )
    if calculate.nm != (2, 4):
        return f"kernels exist for 2:4, not for {_sizes(calculate)}"
    if positions > 1 and channel_dim < 0:
        return "PyTorch's kernel multiplies one matrix: packed experts have to be taken apart for it"
    if positions > 1:
        return "PyTorch's kernel multiplies matrices: a convolution wider than 1x1 needs TensorRT"
    limits = KERNEL_LIMITS["cusparselt"]
    return limits.get(weight.dtype, limits[torch.float16]).why_not(rows, channels)


def _sizes(calculate: MaskCalculator) -> str:
    return str(calculate) if calculate.nm is None else "{}:{}".format(*calculate.nm)


def _stored_weights(model: Any, entry: str | None, custom: Custom | None) -> Iterator[StoredWeight]:
    """The weights of anything that ``check`` takes."""
    if not isinstance(model, (nn.Module, ExportedProgram, Mapping, str, Path)):
        raise ValueError(f"check takes a module, a state dict or a file, got {type(model).__name__}")
    if not isinstance(model, nn.Module):
        if custom is not None:
            raise ValueError(f"custom={custom!r} is for modules, whose types it names; got a {type(model).__name__}")
        if isinstance(model, (str, Path)) and Path(model).suffix == ".onnx":
            if entry is not None:
                raise ValueError(f"entry={entry!r} is for states and files of them, and {str(model)!r} is an ONNX file")
            yield from onnx_stored(Path(model))
            return
        yield from stored_weights(state_in(model, entry))
        return
    if entry is not None:
        raise ValueError(f"entry={entry!r} is for states and files, and this is a {type(model).__name__}")
    yield from _of_module(model, custom)
    yield from packed_weights(model)


def _of_module(model: nn.Module, custom: Custom | None) -> Iterator[StoredWeight]:
    weights = list(model_weights(model, custom))
    require_some_values(weights)
    if not any(isinstance(weight, LayerWeight) for weight in weights) and _has_lost_its_types(model):
        yield from stored_weights(dict(model.named_parameters()))
        return
    for weight in weights:
        layer = weight.layer if isinstance(weight, TiedWeight) else weight
        reason = why_unreadable(weight.weight, weight.module)
        if reason is not None:
            held = torch.empty(0, 0) if nn.parameter.is_lazy(weight.weight) else weight.weight
            yield StoredWeight(weight.name, held, (), unreadable=reason)
        elif isinstance(layer, LayerWeight):
            yield StoredWeight(weight.name, values_of(weight), (layer.channel_dim,))
        elif is_recurrent(weight):
            yield StoredWeight(weight.name, values_of(weight), (1,))
        else:
            yield StoredWeight(weight.name, values_of(weight), (), unjudged=why_not_pruned(weight, None) or "")


def _has_lost_its_types(model: nn.Module) -> bool:
    """Whether it has parameters, but no layers that could be told: scripted and exported models."""
    return any(isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)) for module in model.modules())
