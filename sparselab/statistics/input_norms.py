"""The norm of every input channel of a weight."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparselab.core.moves import Move
from sparselab.statistics.layers import Given, WeightUse


@dataclass(frozen=True, eq=False)
class InputNorms:
    """The L2 norms of one weight's inputs over all samples, positions and tokens.

    ``norms``: float64, on the CPU, one for each input channel, in a shape that broadcasts against
    the weight; ``channel_dim`` is the weight's dimension of input channels, ``groups`` how many
    matrices its first dimension holds (of a grouped convolution, of a packed ``in_proj_weight``, of
    packed experts). Those of an expert that no token reached, or none but zeros, are NaN: not known.
    Memory: 8 bytes for each channel, times the outputs where groups have norms of their own.
    """

    norms: Tensor
    channel_dim: int = 1
    groups: int = 1

    def moved(self, move: Move) -> InputNorms:
        """The norms of the weight's inputs after ``move``."""
        return dataclasses.replace(self, norms=moved_norms(self.norms, self.channel_dim, move))

    @classmethod
    def bytes_of(cls, layer: WeightUse, dtype: torch.dtype) -> int:
        """How much memory the sums of one weight take while they are collected."""
        return 8 * layer.weight.shape[layer.channel_dim] * layer.groups

    @classmethod
    def of_call(cls, given: Given, dtype: torch.dtype) -> tuple[Tensor]:
        """The squared norms in one call: float64 ``(groups, channels)``, or one row for all."""
        squares = torch.stack([_channel_squares(inputs) for inputs in given.inputs])
        return (squares.reshape(given.layer.groups, -1) if given.windows else squares,)

    @classmethod
    def of_sums(cls, sums: tuple[Tensor, ...], layer: WeightUse) -> Self:
        """The norms from the sums over all calls."""
        norms = sums[0].cpu().sqrt()
        if layer.is_packed:
            norms = torch.where((norms == 0).all(1, keepdim=True), torch.nan, norms)
            return cls(norms.unsqueeze(1 if layer.channel_dim == -1 else 2), layer.channel_dim, layer.groups)
        kernel = [1] * (layer.weight.ndim - 2)
        if layer.channel_dim == 0:
            return cls(norms.reshape(-1, 1, *kernel), 0, layer.groups)
        if len(norms) > 1:  # each output has those of its own group
            norms = norms.repeat_interleave(len(layer.weight) // len(norms), 0)
        return cls(norms.reshape(*norms.shape, *kernel), 1, layer.groups)


def moved_norms(norms: Tensor, channel_dim: int, move: Move) -> Tensor:
    """Norms that broadcast against a weight, moved with it.

    They grow only in dimensions that move and in which they differ.
    """
    if norms.ndim == 1 and len(move.shape) > 1:
        channels = channel_dim % len(move.shape)
        norms = norms.reshape([-1 if dim == channels else 1 for dim in range(len(move.shape))])
    span = range(move.first, move.last + 1)
    if all(norms.shape[dim] == 1 for dim in span):
        return norms
    return move(norms.expand([size if dim in span else -1 for dim, size in enumerate(move.shape)]))


def require_known(norms: Tensor, channel_dim: int) -> None:
    """Raise ``ValueError`` naming the experts whose ``norms`` are NaN: nothing that data say scores them."""
    if channel_dim < 0 and bool(norms.isnan().any()):
        unseen = norms.isnan().flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(no_token(unseen))


def no_token(experts: list[int]) -> str:
    """That calibration did not reach some ``experts``, and what to do."""
    which = f"expert {experts[0]}" if len(experts) == 1 else f"experts {', '.join(map(str, experts))}"
    return (
        f"{which} saw no token in calibration, so nothing is known of what its channels are worth: collect over more "
        "batches, prune this weight by magnitude, or leave it out (exclude=)"
    )


def _channel_squares(inputs: Tensor) -> Tensor:
    """The sum of squares of each channel, the last dimension, in float64."""
    squares = inputs.double().square()
    return squares.sum(list(range(squares.ndim - 1))) if squares.ndim > 1 else squares
