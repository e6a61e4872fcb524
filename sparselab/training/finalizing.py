"""States that were saved under masks, as those of plain models."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from sparselab.core.entries import MadeOf, other_masks, own_masks
from sparselab.core.layers import is_wrapped


def finalized(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """``state``, saved under masks, as that of the plain model: masks are applied and gone.

    What ``Sparsifier.finalize()`` leaves in a model, for a state dict: each weight is zero where
    its mask is, and the entries of masks and of kept pruned values are left out, so that a model
    that never had masks loads it with ``strict=True``. Taken off are the masks of ``Sparsifier``
    and ``ASP``, in any schedule, those of ``torch.nn.utils.prune`` (``weight_orig`` x
    ``weight_mask`` becomes ``weight``), and of parametrisations that hold nothing but a ``mask``.
    States inside a checkpoint, as in ``{"model": state, "epoch": 3}``, are treated likewise. Other
    names of a masked tensor (a tied embedding) get the same weight. The rest, and what has no masks at all, comes back as it is: the same tensors, not copies.

    ``state`` and its tensors are not changed. The new weights have the dtype and device of the old.
    Deterministic. Raises ``TypeError`` for what is no mapping, and ``ValueError`` for masks that do
    not fit their weights.

    >>> import torch, sparselab as sl
    >>> model = torch.nn.Linear(8, 4)
    >>> sl.Sparsifier(model, "2:4").compute()
    >>> list(model.state_dict()), list(sl.finalized(model.state_dict()))
    (['weight', 'bias', '__weight_mma_mask'], ['weight', 'bias'])
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"finalized takes a state dict, got {type(state).__name__}: of a model it is "
            "model.state_dict(), of a file what torch.load reads"
        )
    names = dict.fromkeys(name for name in state if isinstance(name, str)).keys()
    own = list(own_masks(names))
    masked: dict[str, MadeOf] = {made.entries[0]: made for made in chain(own, other_masks(names))}
    tied = {_place(state[made.name]): made for made in own}
    left_out = {entry for made in masked.values() for entry in made.entries[1:]}
    result: OrderedDict[str, Any] = OrderedDict()
    for name, value in state.items():
        if name in masked:
            result[masked[name].name] = masked[name].of(state)
        elif name in left_out:
            continue
        elif (place := _place(value)) is not None and place in tied:
            result[name] = tied[place].of(state)
        else:
            result[name] = finalized(value) if isinstance(value, Mapping) else value
    if hasattr(state, "_metadata"):  # versions of modules, which load_state_dict reads
        result._metadata = copy.copy(state._metadata)  # type: ignore[attr-defined]
    return result


def _place(value: Any) -> tuple[Any, ...] | None:
    """Where a tensor is in memory, by which names of one tensor (a tied embedding) are told; ``None`` without."""
    if not isinstance(value, Tensor) or is_wrapped(value) or value.is_meta or value.is_nested:
        return None
    if value.layout != torch.strided or not value.numel():
        return None
    return value.device, value.data_ptr(), tuple(value.shape), value.stride()
