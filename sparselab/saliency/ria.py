"""A weight is worth its share of its row and of its column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sparselab.saliency.from_norms import FromNorms, norms_like, wide_magnitude
from sparselab.statistics.input_norms import InputNorms


@dataclass(frozen=True, eq=False)
class Ria(FromNorms):
    """Relative importance and activations (Zhang et al., ICLR 2024, "Plug-and-Play", section 3).

    ``(|w| / its row's sum + |w| / its column's sum) * norm ** power``.

    Rows and columns are those of the weight matrix, so no weight is lost only because its whole
    channel is small. No order of outputs or input channels changes a score. ``norms`` and
    ``channel_dim`` are as for ``Wanda``; ``groups`` is how many matrices the weight's first
    dimension holds (of a grouped convolution, of a packed ``in_proj_weight``), each with rows and
    columns of its own. The share of a row or column of zeros is 0. Scores are float32 (float64 for
    float64 weights).

    >>> import torch
    >>> Ria(torch.ones(2))(torch.tensor([[3.0, -1.0], [1.0, 1.0]]))
    tensor([[1.5000, 0.7500],
            [0.7500, 1.0000]])
    """

    groups: int = 1
    power: float = 0.5

    @classmethod
    def of(cls, inputs: InputNorms, *, power: float = 0.5) -> Self:
        """The relative importance of the weight whose ``inputs`` these are."""
        return cls(inputs.norms, inputs.channel_dim, inputs.groups, power)

    def __call__(self, weight: Tensor) -> Tensor:
        """The scores of ``weight``; ``ValueError`` when ``groups`` do not divide its first dim."""
        sizes = wide_magnitude(weight)
        norms = norms_like(self.norms, sizes, self.channel_dim)
        if weight.ndim == 1:  # one row
            return (_share(sizes, 0) + (sizes > 0)) * norms**self.power
        if weight.shape[0] % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a weight of shape {tuple(weight.shape)}")
        matrices = sizes.reshape(self.groups, -1, *sizes.shape[1:])
        channels = self.channel_dim % weight.ndim + 1
        elsewhere = [dim for dim in range(1, matrices.ndim) if dim != channels]
        relative = _share(matrices, channels) + _share(matrices, elsewhere)
        return relative.flatten(0, 1) * norms**self.power


def _share(sizes: Tensor, dims: int | list[int]) -> Tensor:
    """Each entry's share of the sum over ``dims``."""
    total = sizes.sum(dims, keepdim=True)
    return sizes / total.masked_fill_(total == 0, 1)
