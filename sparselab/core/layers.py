"""The weights of a model's layers, and the user's choice of them by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

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
        """From what a user writes: names of weights or modules, ``*`` and ``?`` allowed.

        One name may stand by itself.
        """
        include, exclude = ((names,) if isinstance(names, str) else names for names in (include, exclude))
        return cls(None if include is None else tuple(include), tuple(exclude or ()))

    def check(self, model: nn.Module, layers: Iterable[LayerWeight]) -> None:
        """Raise ``ValueError`` for a name that matches nothing in ``model``.

        Its ``layers`` may go by other names too.
        """
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


def is_wrapped(weight: Tensor) -> bool:
    """Whether a tensor is made of others (quantised by torchao, a ``DTensor``), as PyTorch tells it."""
    return hasattr(weight, "__tensor_flatten__") and hasattr(weight, "__tensor_unflatten__")
