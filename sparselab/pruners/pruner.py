"""What a pruner is, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sparselab.masks import MaskCalculator


@dataclass(frozen=True, eq=False)
class Pruned:
    """What a pruner decided for one weight.

    ``mask`` is bool, True where a weight stays; ``weight`` has the new values, in the dtype and on
    the device of the old ones, and is zero where the mask is False.
    """

    mask: Tensor
    weight: Tensor


def require_own_scores(pruner: object, saliency: object) -> None:
    """Raise ``ValueError`` for a ``saliency`` given beside a ``pruner``, which has scores of its own."""
    if pruner is not None and not (isinstance(saliency, str) and saliency == "magnitude"):
        raise ValueError(
            f"pruner={pruner!r} and saliency={saliency!r}: a pruner has scores of its own; give one of the two "
            "(the name of a saliency is a pruner too: pruner='ria')"
        )


def checked(found: object, weight: Tensor) -> Pruned:
    """``found``, which a pruner returned for ``weight``. Raises ``ValueError`` for what is not as ``Pruned`` says."""
    if not isinstance(found, Pruned):
        raise ValueError(f"a pruner returns Pruned(mask, weight), got {type(found).__name__}")
    for name, tensor, dtype in (("mask", found.mask, torch.bool), ("weight", found.weight, weight.dtype)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"the pruner's {name} is no tensor but {type(tensor).__name__}")
        if (tensor.dtype, tensor.shape, tensor.device) != (dtype, weight.shape, weight.device):
            raise ValueError(
                f"the pruner's {name} is {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}; it must be "
                f"{dtype} of shape {tuple(weight.shape)} on {weight.device}"
            )
    if not bool(found.weight.isfinite().all()):
        raise ValueError("the pruner's weight has values that are not finite")
    if bool(found.weight.masked_select(~found.mask).any()):
        raise ValueError("the pruner's weight is not zero where its mask is False")
    return found


class Pruner(Protocol):
    """A frozen dataclass whose fields are the options. Called, it prunes one weight.

    It chooses scores and values; the calculator chooses the mask, and whether that is 2:4, V:N:M or
    no structure at all is not the pruner's business.
    """

    @property
    def needs(self) -> type[Any] | None:
        """The kind of statistics of the weight's inputs that it prunes by; ``None`` for the weight alone."""

    def __call__(
        self, weight: Tensor, calculator: MaskCalculator, statistic: Any = None, *, channel_dim: int = 1
    ) -> Pruned:
        """Prune ``weight``, which is not changed.

        ``statistic`` is of the kind ``needs``. Deterministic. Raises ``ValueError`` for weights that
        are not finite or do not fit the calculator, and without the statistic that it needs.
        """
        ...
