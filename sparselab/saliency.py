"""Saliency: a non-negative score for every weight. A name, a callable ``weight -> scores``, or a tensor of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sparselab.layout import channel_dim_of
from sparselab.modes import evaluating
from sparselab.specs import unknown_name

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
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        norms = self.norms.to(weight.device, dtype)
        if norms.ndim == 1 and weight.ndim > 1:
            channels = weight.shape[self.channel_dim]
            if norms.shape[0] != channels:
                raise ValueError(f"{norms.shape[0]} channel norms for a weight with {channels} input channels")
            norms = norms.reshape([-1 if dim == self.channel_dim % weight.ndim else 1 for dim in range(weight.ndim)])
        return weight.detach().to(dtype).abs() * norms


_NAMES = {"magnitude": magnitude}
_NEEDS_DATA = {
    "wanda": "it scores by the inputs of each layer: collect them with collect_wanda(model, batches), or pass "
    "Wanda(norms) (both in sparselab.saliency)"
}


def scores(weight: Tensor, saliency: Saliency = "magnitude") -> Tensor:
    """The scores of ``weight``: non-negative, of its shape.

    Raises ``ValueError`` for an unknown name (listing the valid ones), a name that needs data, scores of another
    shape and negative scores. NaN and infinity are left for the mask calculators to refuse.
    """
    if isinstance(saliency, str):
        if saliency in _NEEDS_DATA:
            raise ValueError(f"saliency {saliency!r} cannot be computed from the weight alone; {_NEEDS_DATA[saliency]}")
        if saliency not in _NAMES:
            raise unknown_name("saliency", saliency, [*_NAMES, *_NEEDS_DATA])
        return _NAMES[saliency](weight)
    result = saliency if isinstance(saliency, Tensor) else saliency(weight)
    if not isinstance(result, Tensor):
        raise ValueError(f"saliency {saliency!r} returned {type(result).__name__}, not a tensor")
    if result.shape != weight.shape:
        raise ValueError(f"scores have shape {tuple(result.shape)}, the weight {tuple(weight.shape)}: they must agree")
    if result.numel() and bool((result < 0).any()):
        raise ValueError("scores must not be negative: a mask keeps the largest; pass their absolute value, or a rank")
    return result.detach().to(weight.device)


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


def collect_wanda(
    model: nn.Module, batches: Iterable[Any], *, device: torch.device | str | None = None
) -> dict[str, Wanda]:
    """One pass of ``model`` over ``batches``; the Wanda saliency of every layer reached, by weight name.

    A batch is what the model takes (a tensor, a tuple of positional or a dict of keyword arguments). A channel's norm
    is the L2 norm of its inputs over samples, positions and tokens, accumulated in float64. The model is in
    evaluation mode meanwhile and as before afterwards. Inputs of ``nn.MultiheadAttention``'s output projection are
    not visible to hooks, so that weight is absent. Raises ``ValueError`` when there is no batch.
    """
    squares: dict[str, Tensor] = {}
    handles = []
    for prefix, module in model.named_modules():
        for own, weight in module.named_parameters(recurse=False):
            if channel_dim_of(module, own) is not None:
                name = f"{prefix}.{own}" if prefix else own
                handles.append(
                    module.register_forward_pre_hook(_accumulator(squares, name, own, weight), with_kwargs=True)
                )
    seen = 0
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                _call(model, batch, device)
                seen += 1
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError("no batch to collect inputs from: the iterable was empty")
    return {name: Wanda(total.sqrt()) for name, total in squares.items()}


def _call(model: nn.Module, batch: Any, device: torch.device | str | None) -> None:
    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) and device is not None else value

    if isinstance(batch, Mapping):
        model(**{key: move(value) for key, value in batch.items()})
    elif isinstance(batch, (tuple, list)):
        model(*(move(value) for value in batch))
    else:
        model(move(batch))


def _accumulator(squares: dict[str, Tensor], name: str, own: str, weight: Tensor) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        total = _squared_norms(module, own, weight, args, kwargs)
        squares[name] = squares[name] + total if name in squares else total

    return hook


def _squared_norms(
    module: nn.Module, own: str, weight: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Squared input norms, shaped to broadcast against ``weight``."""
    if isinstance(module, nn.MultiheadAttention):
        named = {**dict(zip(("query", "key", "value"), args)), **kwargs}
        letters = {"in_proj_weight": "qkv", "q_proj_weight": "q", "k_proj_weight": "k", "v_proj_weight": "v"}[own]
        whole = {"q": "query", "k": "key", "v": "value"}
        parts = [
            _over_all_but(named[whole[letter]], -1).expand(weight.shape[0] // len(letters), -1) for letter in letters
        ]
        return torch.cat(parts)
    inputs = args[0] if args else next(iter(kwargs.values()))
    if isinstance(module, nn.Linear) or weight.ndim == 2:
        total = _over_all_but(inputs, -1)
        return total[None] if isinstance(module, nn.Linear) else total[:, None]
    spatial = weight.ndim - 2
    total = _over_all_but(inputs, inputs.ndim - spatial - 1)
    ones = [1] * spatial
    if getattr(module, "transposed", False):
        return total.reshape(-1, 1, *ones)
    groups = module.groups
    assert isinstance(groups, int)
    per_output = total.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    return per_output.reshape(weight.shape[0] if groups > 1 else -1, weight.shape[1], *ones)[
        : None if groups > 1 else 1
    ]


def _over_all_but(inputs: Tensor, dim: int) -> Tensor:
    dims = [other for other in range(inputs.ndim) if other != dim % inputs.ndim]
    return inputs.detach().double().square().sum(dims) if dims else inputs.detach().double().square()
