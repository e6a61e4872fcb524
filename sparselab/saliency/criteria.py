"""What a weight is worth: pure functions of the weight, and of the norms of what it is multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from sparselab.core.registry import unknown_name

Saliency: TypeAlias = str | Callable[[Tensor], Tensor] | Tensor
ModelSaliency: TypeAlias = Saliency | Mapping[str, Saliency]
"""For whole models: one saliency for every layer, or one for each weight's name."""


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: what ASP and the permutation paper prune by. Same shape, dtype and device as ``weight``."""
    return weight.detach().abs()


@dataclass(frozen=True, eq=False)
class Wanda:
    """``|w|`` times the norm of the weight's input channel (Sun et al. 2023, "A Simple and Effective Pruning
    Approach").

    ``norms`` holds one norm for each input channel, ``(C,)``, or broadcasts against the weight. ``channel_dim`` is the
    weight's input-channel dimension. Scores are float32 (float64 for float64 weights), on the weight's device.

    >>> Wanda(torch.tensor([1.0, 10.0]))(torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., 10.]])
    """

    norms: Tensor
    channel_dim: int = 1

    def __call__(self, weight: Tensor) -> Tensor:
        """The scores of ``weight``."""
        sizes = _wide_magnitude(weight)
        return sizes * _norms_like(self.norms, sizes, self.channel_dim)


@dataclass(frozen=True, eq=False)
class Ria:
    """Relative importance and activations: ``(|w| / its row's sum + |w| / its column's sum) * norm ** power`` (Zhang et
    al., ICLR 2024, "Plug-and-Play", section 3).

    Rows and columns are those of the weight matrix, so no weight is lost only because its whole channel is small. No order
    of outputs or input channels changes a score. ``norms`` and ``channel_dim`` are as for ``Wanda``; ``groups`` is how many
    matrices the weight's first dimension holds (of a grouped convolution, of a packed ``in_proj_weight``), each with rows and
    columns of its own. The share of a row or column of zeros is 0. Scores are float32 (float64 for float64 weights).

    >>> Ria(torch.ones(2))(torch.tensor([[3.0, -1.0], [1.0, 1.0]]))
    tensor([[1.5000, 0.7500],
            [0.7500, 1.0000]])
    """

    norms: Tensor
    channel_dim: int = 1
    groups: int = 1
    power: float = 0.5

    def __call__(self, weight: Tensor) -> Tensor:
        """The scores of ``weight``. Raises ``ValueError`` when ``groups`` does not divide its first dimension."""
        sizes = _wide_magnitude(weight)
        norms = _norms_like(self.norms, sizes, self.channel_dim)
        if weight.ndim == 1:  # one row
            return (_share(sizes, 0) + (sizes > 0)) * norms**self.power
        if weight.shape[0] % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a weight of shape {tuple(weight.shape)}")
        matrices = sizes.reshape(self.groups, -1, *sizes.shape[1:])
        channels = self.channel_dim % weight.ndim + 1
        elsewhere = [dim for dim in range(1, matrices.ndim) if dim != channels]
        relative = _share(matrices, channels) + _share(matrices, elsewhere)
        return relative.flatten(0, 1) * norms**self.power


def _wide_magnitude(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32).abs()


def _norms_like(norms: Tensor, sizes: Tensor, channel_dim: int) -> Tensor:
    """``norms`` as they broadcast against ``sizes``, of its dtype and on its device."""
    if norms.ndim == 1 and sizes.ndim > 1:
        channels = sizes.shape[channel_dim]
        if norms.shape[0] != channels:
            raise ValueError(f"{norms.shape[0]} channel norms for a weight with {channels} input channels")
        norms = norms.reshape([-1 if dim == channel_dim % sizes.ndim else 1 for dim in range(sizes.ndim)])
    return norms.to(sizes.device, sizes.dtype)


def _share(sizes: Tensor, dims: int | list[int]) -> Tensor:
    """Each entry's share of the sum over ``dims``."""
    total = sizes.sum(dims, keepdim=True)
    return sizes / total.masked_fill_(total == 0, 1)


_NAMES = {"magnitude": magnitude}
FROM_ACTIVATIONS = ("wanda", "ria")
"""Names that need what a model's layers are given: ``ActivationNorms.saliency`` knows what they stand for."""


def scores(weight: Tensor, saliency: Saliency = "magnitude") -> Tensor:
    """The scores of ``weight``: non-negative, of its shape, in a dtype that can be compared and summed.

    Raises ``ValueError`` for an unknown name (listing the valid ones), a name that needs data, what is no saliency at all,
    scores of another shape and negative or complex scores. NaN and infinity are left for the mask calculators to refuse.
    """
    if isinstance(saliency, str):
        if saliency in FROM_ACTIVATIONS:
            raise ValueError(
                f"saliency {saliency!r} cannot be computed from the weight alone, it scores by the inputs of each layer: "
                f"pass collect_activations(model, batches).saliency({saliency!r}) (in sparselab.saliency) in its place"
            )
        check_name(saliency)
        return _NAMES[saliency](computable(weight))
    if isinstance(saliency, Mapping):
        raise ValueError(
            f"a mapping of {len(saliency)} names is a saliency for whole models; for one weight pass its own, "
            "saliency[its name]"
        )
    if not isinstance(saliency, Tensor) and not callable(saliency):
        raise ValueError(
            f"a saliency is a name, a callable weight -> scores or a tensor of scores, got {type(saliency).__name__}"
        )
    result = saliency if isinstance(saliency, Tensor) else saliency(weight)
    if not isinstance(result, Tensor):
        raise ValueError(f"saliency {saliency!r} returned {type(result).__name__}, not a tensor")
    if result.shape != weight.shape:
        raise ValueError(f"scores have shape {tuple(result.shape)}, the weight {tuple(weight.shape)}: they must agree")
    if result.is_complex():
        raise ValueError(f"scores have dtype {result.dtype}: complex numbers have no order; pass their absolute value")
    result = computable(result.detach())
    if result.numel() and bool((result < 0).any()):
        raise ValueError("scores must not be negative: a mask keeps the largest; pass their absolute value, or a rank")
    return result.to(weight.device)


def computable(values: Tensor) -> Tensor:
    """``values`` in a dtype that PyTorch compares and sums: 8-bit floats as float32, integers and bools as float64.

    >>> computable(torch.tensor([1.5], dtype=torch.float8_e4m3fn)), computable(torch.tensor([True])).dtype
    (tensor([1.5000]), torch.float64)
    """
    if not values.is_floating_point():
        return values.double()
    return values.float() if values.dtype.itemsize == 1 else values


def check_name(saliency: str) -> None:
    """Raises ``ValueError``, listing the valid ones, when ``saliency`` is not the name of one."""
    valid = [*_NAMES, *FROM_ACTIVATIONS]
    if saliency not in valid:
        raise unknown_name("saliency", saliency, valid)


def for_layer(saliency: ModelSaliency, name: str) -> Saliency:
    """The saliency of the weight called ``name``; ``ValueError`` when a mapping has none for it."""
    if not isinstance(saliency, Mapping):
        return saliency
    if name not in saliency:
        raise ValueError(
            f"no saliency for weight {name!r}; the mapping has {len(saliency)} others. "
            "Was its layer reached by the data?"
        )
    return saliency[name]
