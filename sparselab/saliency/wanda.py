"""A weight is worth its size times that of what it is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sparselab.saliency.from_norms import FromNorms, norms_like, wide_magnitude
from sparselab.statistics.input_norms import InputNorms


@dataclass(frozen=True, eq=False)
class Wanda(FromNorms):
    """``|w|`` times the norm of the weight's input channel.

    Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models".

    ``norms`` holds one norm for each input channel, ``(C,)``, or broadcasts against the weight.
    ``channel_dim`` is the weight's input-channel dimension. Scores are float32 (float64 for float64
    weights), on the weight's device.

    >>> import torch
    >>> Wanda(torch.tensor([1.0, 10.0]))(torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., 10.]])
    """

    @classmethod
    def of(cls, inputs: InputNorms) -> Self:
        """The Wanda saliency of the weight whose ``inputs`` these are."""
        return cls(inputs.norms, inputs.channel_dim)

    def __call__(self, weight: Tensor) -> Tensor:
        """The scores of ``weight``."""
        sizes = wide_magnitude(weight)
        return sizes * norms_like(self.norms, sizes, self.channel_dim)
