"""What saliencies that score by the norms of input channels have in common."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sparselab.core.moves import Move
from sparselab.statistics.input_norms import InputNorms, moved_norms, require_known


@dataclass(frozen=True, eq=False)
class FromNorms:
    """Holds one norm for each input channel, ``(C,)``, or what broadcasts against the weight."""

    needs: ClassVar[type[InputNorms]] = InputNorms

    norms: Tensor
    channel_dim: int = 1

    def moved(self, move: Move) -> Self:
        """The saliency that fits the weight after ``move``: its norms have moved along."""
        return dataclasses.replace(self, norms=moved_norms(self.norms, self.channel_dim, move))


def wide_magnitude(weight: Tensor) -> Tensor:
    """``|w|`` in float32, or float64 for float64 weights: products with norms do not overflow."""
    return weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32).abs()


def norms_like(norms: Tensor, sizes: Tensor, channel_dim: int) -> Tensor:
    """``norms`` as they broadcast against ``sizes``, of its dtype and on its device.

    Raises ``ValueError`` for other numbers of channels, and for an expert that data did not reach.
    """
    require_known(norms, channel_dim)
    if norms.ndim == 1 and sizes.ndim > 1:
        channels = sizes.shape[channel_dim]
        if norms.shape[0] != channels:
            raise ValueError(f"{norms.shape[0]} channel norms for a weight with {channels} input channels")
        norms = norms.reshape([-1 if dim == channel_dim % sizes.ndim else 1 for dim in range(sizes.ndim)])
    return norms.to(sizes.device, sizes.dtype)
