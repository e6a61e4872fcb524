"""The norm of every input channel of a weight."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from sparselab.core.moves import Move


@dataclass(frozen=True, eq=False)
class InputNorms:
    """The L2 norms of one weight's inputs over all samples, positions and tokens.

    ``norms``: float64, on the CPU, one for each input channel, in a shape that broadcasts against
    the weight; ``channel_dim`` is the weight's dimension of input channels, ``groups`` how many
    matrices its first dimension holds (of a grouped convolution, of a packed ``in_proj_weight``).
    """

    norms: Tensor
    channel_dim: int = 1
    groups: int = 1

    def moved(self, move: Move) -> InputNorms:
        """The norms of the weight's inputs after ``move``."""
        return dataclasses.replace(self, norms=moved_norms(self.norms, self.channel_dim, move))


def moved_norms(norms: Tensor, channel_dim: int, move: Move) -> Tensor:
    """Norms that broadcast against a weight, moved with it; what they are alike in stays as small as it is."""
    if norms.ndim == 1 and len(move.shape) > 1:
        channels = channel_dim % len(move.shape)
        norms = norms.reshape([-1 if dim == channels else 1 for dim in range(len(move.shape))])
    span = range(move.first, move.last + 1)
    if all(norms.shape[dim] == 1 for dim in span):
        return norms
    return move(norms.expand([size if dim in span else -1 for dim, size in enumerate(move.shape)]))
