"""Which weights a pattern can prune, and for each of the others the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sparselab.core.patterns import Pattern
from sparselab.core.registry import unknown_name
from sparselab.core.weight_matrix import channel_dim_of


@dataclass(frozen=True, eq=False)
class LayerWeight:
    """The weight of one layer: its full ``name``, its ``module`` and own ``attribute`` there, its input channels."""

    name: str
    module: nn.Module
    attribute: str
    channel_dim: int

    @property
    def weight(self) -> Tensor:
        """The tensor as it is now."""
        tensor = getattr(self.module, self.attribute)
        assert isinstance(tensor, Tensor)
        return tensor

    def matches(self, patterns: Iterable[str]) -> bool:
        """Whether any of ``patterns`` (``*`` and ``?`` allowed) is the name of the weight or of its module."""
        names = (self.name, self.name.rpartition(".")[0])
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


@dataclass(frozen=True)
class Names:
    """The user's choice of layers by name: those of ``include`` (``None``: all) but for those of ``exclude``."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, include: str | Iterable[str] | None, exclude: str | Iterable[str] | None) -> Names:
        """From what a user writes: names of weights or modules, ``*`` and ``?`` allowed; one name may stand by itself."""
        include, exclude = ((names,) if isinstance(names, str) else names for names in (include, exclude))
        return cls(None if include is None else tuple(include), tuple(exclude or ()))

    def check(self, model: nn.Module, layers: Iterable[LayerWeight]) -> None:
        """Raise ``ValueError`` for a name that matches nothing in ``model``, whose ``layers`` may go by other names too."""
        known = {name for name, _ in model.named_modules()} | {layer.name for layer in layers}
        for option, names in (("include", self.include or ()), ("exclude", self.exclude)):
            for name in names:
                if not any(fnmatchcase(candidate, name) for candidate in known):
                    raise ValueError(f"{option} names {name!r}, which matches no weight or module of the model")

    def why_not(self, layer: LayerWeight) -> str | None:
        """Why ``layer`` is not chosen, or ``None``."""
        if self.include is not None and not layer.matches(self.include):
            return "not in include"
        return "in exclude" if layer.matches(self.exclude) else None


_ATTRIBUTES = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def layer_weights(
    model: nn.Module, custom: Mapping[type[nn.Module], Sequence[str]] | None = None
) -> Iterator[LayerWeight]:
    """Every weight of a Linear, convolution or attention layer, in the order of the modules, tied ones once.

    ``custom`` adds layer types of your own, each with the names of its weights (input channels in dimension 1).

    >>> [layer.name for layer in layer_weights(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Conv2d(8, 8, 3)))]
    ['0.weight', '2.weight']
    """
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        own = [name for kind, names in (custom or {}).items() if isinstance(module, kind) for name in names]
        for attribute in dict.fromkeys((*_ATTRIBUTES, *own)):
            channel_dim = channel_dim_of(module, attribute)
            if channel_dim is None and attribute in own:
                channel_dim = 1
            weight = getattr(module, attribute, None)
            if channel_dim is None or not isinstance(weight, Tensor) or id(weight) in seen:
                continue
            if attribute in module._parameters:  # what a parametrisation computes dies here, and its id is used again
                seen.add(id(weight))
            yield LayerWeight(f"{prefix}.{attribute}" if prefix else attribute, module, attribute, channel_dim)


def why_not(
    module: nn.Module,
    name: str,
    pattern: str | Pattern = "2:4",
    rule: str = "divisible",
    *,
    channel_dim: int | None = None,
) -> str | None:
    """Why ``pattern`` cannot prune ``module``'s own parameter ``name``, or ``None`` when it can.

    ``rule="divisible"`` asks that groups fit: the input channels are a multiple of M (for 2d masks the outputs too, for
    V:N:M the outputs of V).
    ``rule="asp"`` asks what ASP asks: float32 or float16, gradients on, ``size(0) % 8 == 0`` and ``size(1) % 16 == 0``.
    ``channel_dim`` is needed only for weights of layer types that ``layout`` does not know. Raises ``ValueError`` for an
    unknown rule.

    >>> why_not(nn.Linear(10, 8), "weight", "2:4")
    '10 input channels are not a multiple of 4'
    """
    if rule not in _RULES:
        raise unknown_name("eligibility rule", rule, _RULES)
    pattern = Pattern.parse(pattern)
    known = channel_dim_of(module, name)
    channel_dim = channel_dim if known is None else known
    if channel_dim is None:
        return "not the weight of a Linear, convolution or attention layer"
    if name not in module._parameters:
        return "computed by a parametrisation at every use: nothing stored here to prune"
    weight: Tensor | None = module._parameters[name]
    if weight is None:
        return "this layer has no such weight"
    if nn.parameter.is_lazy(weight):
        return "not initialised yet: run one forward pass first"
    if is_wrapped(weight):
        return f"held as a {type(weight).__name__} (quantised or sharded): prune the plain weight before"
    if not weight.is_floating_point():
        return f"dtype {weight.dtype} is not floating point"
    return _RULES[rule](module, weight, channel_dim, pattern)


def is_wrapped(weight: Tensor) -> bool:
    """Whether a tensor is made of others (quantised by torchao, a ``DTensor``), as PyTorch tells it."""
    return hasattr(weight, "__tensor_flatten__") and hasattr(weight, "__tensor_unflatten__")


def _divisible(module: nn.Module, weight: Tensor, channel_dim: int, pattern: Pattern) -> str | None:
    if pattern.m is None:
        return None
    channels, outputs = weight.shape[channel_dim], weight.shape[1 - channel_dim]
    conv_groups = getattr(module, "groups", 1)
    if channel_dim == 0 and conv_groups > 1:
        channels //= conv_groups
    if channels == 1:
        return f"{'depthwise: ' if conv_groups > 1 else ''}1 input channel, nothing to choose from"
    if channels % pattern.m:
        return f"{channels} input channels are not a multiple of {pattern.m}"
    if outputs % pattern.block_rows:
        kind = "a 2d mask" if pattern.both_ways else "V:N:M"
        return f"{outputs} outputs are not a multiple of {pattern.block_rows}, as {kind} needs"
    return None


def _asp(module: nn.Module, weight: Tensor, channel_dim: int, pattern: Pattern) -> str | None:
    if weight.dtype not in (torch.float32, torch.float16):
        return f"dtype {weight.dtype} is neither float32 nor float16"
    if not weight.requires_grad:
        return "frozen: it does not require a gradient"
    for dim, multiple in ((0, 8), (1, 16)):
        if weight.shape[dim] % multiple:
            return f"size({dim}) = {weight.shape[dim]} is not a multiple of {multiple}"
    return _divisible(module, weight, channel_dim, pattern)


_RULES: dict[str, Callable[[nn.Module, Tensor, int, Pattern], str | None]] = {
    "divisible": _divisible,
    "asp": _asp,
}
