"""``to_semi_structured``: the layers that a 2:4 kernel of PyTorch takes, and for each other the reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from torch import nn

from sparselab.core.layers import LayerWeight, ModelWeight, Names, model_weights
from sparselab.core.models import as_eager, unwrap
from sparselab.core.readable import shape_of
from sparselab.deploy.held import masks_of
from sparselab.deploy.layout import LAYOUTS, Layout
from sparselab.deploy.packed_modules import KINDS, PackedModule, pack, split
from sparselab.reports import check

COLUMNS = ["layer", "shape", "dtype", "layout", "converted", "reason"]


def to_semi_structured(
    model: nn.Module,
    *,
    layout: str | Layout = "cusparselt",
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """Hand every weight of ``model`` that is 2:4 to PyTorch's kernel, in place; one row per weight says which and why not.

    Taken are ``Linear``, convolutions of size 1 (as a matrix) and the projections of
    ``MultiheadAttention`` (its packed ``in_proj_weight`` as three), on a GPU, in a dtype and of a size
    that ``layout`` takes (``sparselab.core.kernel_limits``): ``"cusparselt"``, or ``"cutlass"``.
    Their weights become ``torch.sparse.SparseSemiStructuredTensor`` without gradients; nothing else
    changes. ``include`` and ``exclude`` choose by name, as in ``Sparsifier``. Columns: ``layer,
    shape, dtype, layout, converted, reason``; a weight that stays dense has a ``reason``.

    ``state_dict()`` has the dense weights under their own names, ``load_state_dict`` packs what it
    loads, copies and pickles are independent, ``torch.compile`` works, and ``to_dense`` is the way
    back. Deterministic.

    Raises ``ValueError`` for an unknown layout, for names that match nothing, and where ``check`` does.

    >>> import torch
    >>> layer = nn.Linear(64, 64, bias=False).half()
    >>> with torch.no_grad(): _ = layer.weight.mul_(torch.tensor([1, 0, 0, 1]).repeat(16))
    >>> to_semi_structured(layer)[["layer", "converted", "reason"]].to_dict("records")
    [{'layer': 'weight', 'converted': False, 'reason': "on the cpu: the kernel runs on an NVIDIA GPU, \
model.to('cuda') first"}]
    """
    model = unwrap(as_eager(model, "to_semi_structured"))
    chosen = LAYOUTS.resolve(layout)
    if masks_of(model):
        raise ValueError("to_semi_structured: this model has masks that its Sparsifier keeps up: finalize() it first")
    verdict = check(model, "2:4")
    judged = dict(zip(verdict["layer"], zip(verdict["is_sparse"], verdict["reason"])))
    weights = list(model_weights(model))
    names = Names.of(include, exclude)
    names.check(model, weights)
    holders = _holders(model)
    rows: list[tuple[Any, ...]] = []
    taken: list[ModelWeight] = []
    for weight in weights:
        reason = _why_not(weight, judged[weight.name], chosen, names, holders)
        tensor = weight.weight
        dtype = str(tensor.dtype).removeprefix("torch.")
        rows.append((weight.name, shape_of(tensor), dtype, chosen.kernel, not reason, reason))
        taken += [] if reason else [weight]
    convert(model, taken, chosen)
    return pd.DataFrame(rows, columns=COLUMNS).astype({"converted": bool})


def to_dense(model: nn.Module) -> list[str]:
    """Undo ``to_semi_structured`` in place: the same layers with dense weights, without gradients.

    The weights are what they were, but for the sign of zeros (and, in the layout of cuSPARSELt,
    which is read by multiplying, but for NaN and infinity). Returns the names of the weights.

    >>> to_dense(nn.Linear(8, 8))
    []
    """
    model = unwrap(as_eager(model, "to_dense"))
    found = []
    for prefix, module in model.named_modules():
        if isinstance(module, PackedModule):
            found += [f"{prefix}.{name}" if prefix else name for name in module.packed_names()]
            module.become_dense()
    return found


def convert(model: nn.Module, weights: Sequence[ModelWeight], layout: Layout) -> None:
    """Pack ``weights``, of layers in ``model`` that can be packed, whatever device they are on.

    PyTorch's fused layers read weights by themselves, so attention around packed ones is split,
    which keeps them from being used.
    """
    for weight in weights:
        pack(weight.module, weight.attribute, layout)
    for module in model.modules():
        inner = module.self_attn if isinstance(module, nn.TransformerEncoderLayer) else module
        if isinstance(inner, nn.MultiheadAttention) and any(
            isinstance(each, PackedModule) for each in module.modules()
        ):
            split(inner, layout)


def _why_not(
    weight: ModelWeight, verdict: tuple[bool, str], layout: Layout, names: Names, holders: Mapping[int, list[str]]
) -> str:
    """Why ``weight`` stays dense; empty where it is packed."""
    if (reason := names.why_not(weight)) is not None:
        return reason
    is_sparse, why = verdict
    if not is_sparse or not isinstance(weight, LayerWeight):
        return why
    if weight.attribute not in weight.module._parameters:
        return "computed by a parametrisation at every use: nothing stored here to pack"
    if (reason := _why_not_module(weight.module)) is not None:
        return reason
    if others := [name for name in holders[id(weight.weight)] if name != weight.name]:
        return f"tied: {others[0]} is the same tensor, and what holds it needs it dense"
    matrix = weight.weight.detach().flatten(1)
    parts = matrix.chunk(3) if weight.attribute == "in_proj_weight" else (matrix,)
    reasons = (layout.why_not(part) for part in parts)
    return next((reason for reason in reasons if reason), None) or layout.why_not_here(matrix.device) or ""


def _why_not_module(module: nn.Module) -> str | None:
    """Why a layer cannot be packed, whatever its weight, or ``None``."""
    if type(module) not in KINDS:
        return f"a {type(module).__name__}, which may use its weight otherwise than the layers that can be packed"
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if set(module.kernel_size) != {1} or module.groups > 1:
            return "PyTorch's kernel multiplies one matrix: only a convolution of size 1 without groups is one"
        if module.padding not in ("same", "valid") and set(module.padding) != {0}:
            return f"padding {module.padding} puts zeros around the input, which a matrix does not"
    return None


def _holders(model: nn.Module) -> dict[int, list[str]]:
    """The names of each parameter, by identity: one for every module that holds it."""
    found: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), []).append(f"{prefix}.{name}" if prefix else name)
    return found
