"""The weights of a model, which of them layers multiply their inputs with, and the user's choice by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from sparselab.core.experts import EXPERT_WEIGHTS, told_by
from sparselab.core.weight_matrix import channel_dim_of

Custom: TypeAlias = Mapping[type[nn.Module], Sequence[str] | Mapping[str, int]]
"""Layer types of a user's own, each with the names of its weights, or with their input-channel dimensions by name."""


@dataclass(frozen=True, eq=False)
class ModelWeight:
    """A floating-point tensor of two or more dimensions: its full ``name``, ``module`` and own ``attribute`` there."""

    name: str
    module: nn.Module
    attribute: str

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


@dataclass(frozen=True, eq=False)
class LayerWeight(ModelWeight):
    """The weight of one layer, whose dimension of input channels is known.

    ``note`` says what was decided for it and a reader of a table may not expect: how the input
    channels are known where the layer type does not tell, that an embedding is pruned with it.
    """

    channel_dim: int
    note: str = ""

    @property
    def dimension(self) -> int:
        """The dimension of the input channels, counted from the front."""
        return self.channel_dim % self.weight.ndim


@dataclass(frozen=True, eq=False)
class TiedWeight(ModelWeight):
    """Another name for the weight of a ``layer``, in a module that only looks it up."""

    layer: LayerWeight


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

    def check(self, model: nn.Module, layers: Iterable[ModelWeight]) -> None:
        """Raise ``ValueError`` for a name that matches nothing in ``model``.

        Its ``layers`` may go by other names too.
        """
        known = {name for name, _ in model.named_modules()} | {layer.name for layer in layers}
        for option, names in (("include", self.include or ()), ("exclude", self.exclude)):
            for name in names:
                if not any(fnmatchcase(candidate, name) for candidate in known):
                    raise ValueError(f"{option} names {name!r}, which matches no weight or module of the model")

    def why_not(self, layer: ModelWeight) -> str | None:
        """Why ``layer`` is not chosen, or ``None``."""
        if self.include is not None and not layer.matches(self.include):
            return "not in include"
        return "in exclude" if layer.matches(self.exclude) else None

    def spell(self, layer: ModelWeight, word: str) -> bool:
        """Whether a name of ``include`` that has ``word`` in it chooses ``layer``: no ``*`` did it alone."""
        return layer.matches(name for name in self.include or () if word in name.lower())


_ATTRIBUTES = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", *EXPERT_WEIGHTS)


def layer_weights(
    model: nn.Module, custom: Custom | None = None, traced: Mapping[str, int] | None = None
) -> Iterator[LayerWeight]:
    """Every weight of a Linear, convolution or attention layer and of packed experts, tied ones once.

    In the order of the modules. ``custom`` adds layer types of your own, each with the names of its
    weights, whose input channels are in dimension 1, or with their dimensions by name. ``traced``
    has the dimensions of others, by full name, that a trace of the model told. Raises
    ``ValueError`` for a dimension that a weight does not have, or that contradicts what is known.

    >>> [layer.name for layer in layer_weights(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Conv2d(8, 8, 3)))]
    ['0.weight', '2.weight']
    """
    return (weight for weight in model_weights(model, custom, traced) if isinstance(weight, LayerWeight))


def model_weights(
    model: nn.Module, custom: Custom | None = None, traced: Mapping[str, int] | None = None
) -> Iterator[ModelWeight]:
    """Every floating-point parameter of two or more dimensions, and every weight of ``layer_weights``.

    Once each, in the order of the modules; an embedding that is the weight of a layer too has a
    ``TiedWeight`` beside that layer's. The parameters from which a parametrisation computes a
    layer's weight have that in their place.

    >>> [weight.name for weight in model_weights(nn.ModuleDict({"e": nn.Embedding(9, 8), "fc": nn.Linear(8, 8)}))]
    ['e.weight', 'fc.weight']
    """
    layers = list(_layers(model, custom or {}, traced or {}))
    by_module: dict[int, list[LayerWeight]] = {}
    for layer in layers:
        by_module.setdefault(id(layer.module), []).append(layer)
    by_tensor = {id(layer.weight): layer for layer in layers if _is_stored(layer)}
    computed = {layer.name for layer in layers if not _is_stored(layer)}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        own = by_module.get(id(module), [])
        yield from own
        seen |= {id(layer.weight) for layer in own if _is_stored(layer)}
        if isinstance(module, ParametrizationList) and prefix.replace("parametrizations.", "") in computed:
            continue
        for attribute, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen or not _is_matrix(parameter):
                continue
            seen.add(id(parameter))
            weight = ModelWeight(_joined(prefix, attribute), module, attribute)
            tied = by_tensor.get(id(parameter))
            yield weight if tied is None else TiedWeight(weight.name, module, attribute, tied)


def _layers(model: nn.Module, custom: Custom, traced: Mapping[str, int]) -> Iterator[LayerWeight]:
    """What ``layer_weights`` says."""
    _check_custom(model, custom)
    others = {  # the names by which other modules have the tensors that may be layers' weights
        id(parameter): _joined(prefix, name)
        for prefix, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if channel_dim_of(module, name) is None
    }
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        told = _told(prefix, module, custom, traced)
        for attribute in dict.fromkeys((*_ATTRIBUTES, *told)):
            known = channel_dim_of(module, attribute)
            channel_dim, note = told.get(attribute, (None, "")) if known is None else (known, "")
            weight = getattr(module, attribute, None) if channel_dim is not None else None
            if channel_dim is None or not isinstance(weight, Tensor) or id(weight) in seen:
                continue
            if attribute in module._parameters:  # what a parametrisation computes dies here, and its id is used again
                seen.add(id(weight))
            if known is not None:
                note = _note(module, weight, known, others)
            yield LayerWeight(_joined(prefix, attribute), module, attribute, channel_dim, note)


def _told(prefix: str, module: nn.Module, custom: Custom, traced: Mapping[str, int]) -> dict[str, tuple[int, str]]:
    """The input-channel dimensions that were told of weights of ``module``, each with a note of who did."""
    found: dict[str, tuple[int, str]] = {}
    for name, _ in module.named_parameters(recurse=False) if traced else ():
        if (dim := traced.get(_joined(prefix, name))) is not None:
            found[name] = (
                dim,
                f"packed matrices, input channels in dimension {dim % 3}: the traced graph sums over it",
            )
    for name, given in _custom_dims(module, custom).items():
        dim = 1 if given is None else given
        found[name] = (dim, f"input channels in dimension {dim}: custom")
    return found


def _note(module: nn.Module, weight: Tensor, channel_dim: int, others: Mapping[int, str]) -> str:
    if (other := others.get(id(weight))) is not None:
        return f"tied: {other} is the same tensor, so what is pruned here is pruned there"
    return told_by(module, weight, channel_dim) if channel_dim < 0 else ""


def _custom_dims(module: nn.Module, custom: Custom) -> dict[str, int | None]:
    """The weights of ``module`` that ``custom`` names, with their input-channel dimensions where it gives them."""
    found: dict[str, int | None] = {}
    for kind, names in custom.items():
        if isinstance(module, kind):
            names = (names,) if isinstance(names, str) else names
            found.update(names if isinstance(names, Mapping) else dict.fromkeys(names))
    return found


def _check_custom(model: nn.Module, custom: Custom) -> None:
    """Raise ``ValueError`` for what ``custom`` says and no weight of ``model`` can be."""
    if not isinstance(custom, Mapping) or not all(isinstance(kind, type) for kind in custom):
        raise ValueError(
            f"custom={custom!r}: give layer types, each with the names of its weights, {{MyLayer: ['weight']}}, or with "
            "the dimensions of their input channels, {MyLayer: {'weight': 0}}"
        )
    has: dict[str, bool] = {}
    for module in model.modules():
        for name, dim in _custom_dims(module, custom).items():
            label = f"{type(module).__name__}.{name}"
            has[label] = has.get(label, False) or hasattr(module, name)
            weight = getattr(module, name, None)
            if isinstance(weight, Tensor) and not nn.parameter.is_lazy(weight):
                _check_dimension(label, weight, dim, channel_dim_of(module, name))
    for label, there in has.items():
        if not there:
            raise ValueError(f"custom names {label}, which no module of the model has")


def _check_dimension(label: str, weight: Tensor, given: int | None, known: int | None) -> None:
    dim = 1 if given is None else given
    whole = isinstance(dim, int) and not isinstance(dim, bool)
    if not whole or weight.ndim < 2 or not -weight.ndim <= dim < weight.ndim:
        raise ValueError(
            f"custom: dimension {dim!r} of {label}, of shape {tuple(weight.shape)}, cannot be that of its input channels; "
            "a weight has two or more dimensions, numbered from 0"
        )
    if given is not None and known is not None and (given - known) % weight.ndim:
        raise ValueError(
            f"custom: dimension {dim} of {label} is given as that of its input channels; it is {known % weight.ndim}"
        )


def _joined(prefix: str, attribute: str) -> str:
    return f"{prefix}.{attribute}" if prefix else attribute


def _is_stored(layer: ModelWeight) -> bool:
    """Whether the weight is a parameter, and not computed from others at every use."""
    return layer.attribute in layer.module._parameters


def _is_matrix(parameter: Tensor) -> bool:
    return not nn.parameter.is_lazy(parameter) and parameter.ndim >= 2 and parameter.is_floating_point()


def is_recurrent(weight: ModelWeight) -> bool:
    """Whether ``weight`` is one that a recurrent layer multiplies its input or its state with, in dimension 1."""
    return isinstance(weight.module, (nn.RNNBase, nn.RNNCellBase)) and weight.attribute.startswith("weight_")


def is_wrapped(weight: Tensor) -> bool:
    """Whether a tensor is made of others (quantised by torchao, a ``DTensor``), as PyTorch tells it."""
    return hasattr(weight, "__tensor_flatten__") and hasattr(weight, "__tensor_unflatten__")
