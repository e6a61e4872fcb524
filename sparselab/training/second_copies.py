"""The second copies of the weights that some optimizers keep, from which pruned weights would come back."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparselab.core.layers import is_wrapped
from sparselab.core.optimizers import MOMENTS, Keepers, Kept
from sparselab.core.sharding import local
from sparselab.training.masked import MaskedWeights, MaskState

# What optimizers call the weights that they keep. Where a name does not say it alone (``z`` is a sum
# of gradients in FTRL) there is a part of the name of the class, or ``None``: the values have to say it.
KNOWN: Mapping[str, str | None] = {
    "z": "schedulefree",
    "ax": "asgd",
    **dict.fromkeys(("slow_weights", "slow_params", "slow_param", "slow_buffer", "lookahead_slow_buff"), ""),
    **dict.fromkeys(("cached_params", "backup_params"), "lookahead"),
    **dict.fromkeys(("swa_buffer", "ema_params", "ema_param", "param_ema", "averaged_param", "avg_param"), ""),
    **dict.fromkeys(("shadow", "shadow_params", "polyak"), ""),
    **dict.fromkeys(("master_param", "master_params", "master_weight", "master_weights"), ""),
    **dict.fromkeys(("fp32_param", "fp32_params", "param_fp32"), ""),
    **dict.fromkeys(("ema", "avg", "average", "slow", "master", "fp32"), None),
}

# What is never one, however near the weights it comes: with white inputs and a squared loss the
# gradient is a multiple of the weight.
NO_COPIES = MOMENTS | {"momentum", "exp_avg_diff", "previous_grad", "e_w"}
FAR = 0.5  # of the weight's norm: what is nearer to the weight than that is taken for a copy


class SecondCopies:
    """Prunes the copies of masked weights that optimizers keep beside them.

    Schedule-free optimizers put a mixture with ``z`` into the model, Lookahead pulls weights back to
    slow ones, ASGD averages them, some keep float32 masters: what a mask took would come back from
    there. Those in ``KNOWN`` are multiplied by the masks, and moments are left alone. What is called
    otherwise but lies near the weights is named in a warning, once.
    """

    def __init__(self) -> None:
        self._judged: dict[tuple[str, str], bool] = {}
        self._generation: int | None = None

    def prune(self, weights: MaskedWeights, optimizers: Sequence[Any], *, straight_through: bool) -> None:
        """Multiply every copy by its mask; entries that a new mask lets in start from the weight again.

        With ``straight_through`` dense weights are what the optimizer moves, and its copies are
        theirs: they are left as they are, and a warning says so.
        """
        if not optimizers or weights.state in (MaskState.FADING, MaskState.RESTORED):
            return
        keepers = Keepers(optimizers)
        anew, self._generation = weights.generation != self._generation, weights.generation
        for layer in weights.layers:
            mask = weights.mask_of(layer)
            for kept in keepers.of(layer.weight):
                if not self._is_copy(kept, keepers.owners, layer.weight.detach(), mask, straight_through):
                    continue
                with torch.no_grad():
                    copy, weight = local(kept.tensor), local(layer.weight)
                    if anew:
                        copy.copy_(torch.where(mask & (copy == 0), weight, copy))
                    copy.mul_(mask)

    def _is_copy(self, kept: Kept, owners: Iterable[str], weight: Tensor, mask: Tensor, straight_through: bool) -> bool:
        """Whether ``kept`` is to be masked: judged, and said if need be, when such a tensor is first met."""
        if kept.tensor.shape != weight.shape:
            return False
        key = (kept.owner, kept.name)
        if key not in self._judged:
            alike = _looks_like(kept, weight, mask)
            known = kept.name in KNOWN and (alike or _says_it(kept.name, owners))
            self._judged[key] = known and kept.tensor.is_floating_point() and not straight_through
            if known and not self._judged[key]:
                why = "are dense while the schedule trains dense weights" if straight_through else "are quantised"
                _warn(f"{_said(kept)}, which masks leave as they are, since they {why}")
            elif alike and not known:
                _warn(f"{_said(kept)}, as it seems, by a name that is not known: masks leave them as they are")
        return self._judged[key]


def _said(kept: Kept) -> str:
    return f"{kept.name!r} of {kept.owner} holds a second copy of the weights"


def _warn(message: str) -> None:
    warnings.warn(
        f"{message}. What is put into the model from there has values where masks say zero: prune it then, by "
        "sparsifier.apply_to(model), or by finalize() at the end",
        UserWarning,
        stacklevel=2,
    )


def _says_it(name: str, owners: Iterable[str]) -> bool:
    part = KNOWN[name]
    return part is not None and any(part in owner.lower() for owner in owners)


def _looks_like(kept: Kept, weight: Tensor, mask: Tensor) -> bool:
    """Whether the tensor has about the values of ``weight`` where ``mask`` keeps them."""
    tensor = kept.tensor
    if kept.name in NO_COPIES or not tensor.is_floating_point() or is_wrapped(tensor) or is_wrapped(weight):
        return False
    dense = (weight * mask).float()
    return bool((tensor * mask - dense).norm() < FAR * dense.norm())
