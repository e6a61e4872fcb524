"""Saliencies by name: which there are, what each needs, and how one is made."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from sparselab.core.registry import Registry, build, converted
from sparselab.statistics.input_norms import InputNorms

Criterion: TypeAlias = Callable[[Tensor], Tensor]

_BUILT_IN = {
    "magnitude": "sparselab.saliency.magnitude:magnitude",
    "wanda": "sparselab.saliency.wanda:Wanda",
    "ria": "sparselab.saliency.ria:Ria",
}

SALIENCIES: Registry[Any] = Registry("saliency", _BUILT_IN, group="sparselab.saliencies")
"""Each name stands for a function ``weight -> scores``, or for a frozen dataclass that is called so.

A class that scores by data says so in ``needs``, the kind of statistics, and is made by its method
``of(statistic, *, option=...)``; options of any other class are its fields.
"""


def needs(saliency: str) -> type[Any] | None:
    """The kind of statistics that the ``saliency`` of that name scores by, ``None`` if none.

    Raises ``ValueError``, listing the valid names, when there is none of that name.

    >>> needs("ria,power=1").__name__, needs("magnitude")
    ('InputNorms', None)
    """
    return getattr(SALIENCIES.get(SALIENCIES.split(saliency)[0]), "needs", None)


def check_name(saliency: str) -> None:
    """Raises ``ValueError`` when ``saliency`` is not the name of one, or has not such an option."""
    if needs(saliency) is None:
        from_weight(saliency)
    else:
        _options(saliency)


def from_weight(saliency: str) -> Criterion:
    """The saliency of that name, which needs no data. ``"magnitude"`` is one.

    Raises ``ValueError`` for a name that is none, for options that it does not have, and when it
    scores by data, saying how to collect them.
    """
    name, options = SALIENCIES.split(saliency)
    target: Any = SALIENCIES.get(name)
    if (kind := needs(saliency)) is not None:
        _options(saliency)
        raise ValueError(
            f"saliency {name!r} cannot be computed from the weight alone, it scores by the inputs of each layer: "
            f"pass {_collected(saliency, kind)} (in sparselab.saliency) in its place"
        )
    if isinstance(target, type):
        return typing.cast("Criterion", build(target, options, what=f"saliency {name!r}"))
    converted(options, {}, what=f"saliency {name!r}")
    return typing.cast("Criterion", target)


def from_statistics(saliency: str, statistics: Mapping[Any, Mapping[str, Any]]) -> dict[str, Criterion]:
    """The ``saliency`` of that name for every weight that the data reached, by the weight's name.

    ``statistics`` is what ``sparselab.statistics.collect`` returned, or any mapping from a kind of
    statistics to the statistics of that kind by weight name. Raises ``ValueError`` for a name that
    is none, options that it does not have, one that needs no data, and statistics of other kinds.

    >>> import torch
    >>> inputs = {"fc.weight": InputNorms(torch.ones(1, 4))}
    >>> from_statistics("ria,power=0.3", {InputNorms: inputs})["fc.weight"].power
    0.3
    """
    kind = needs(saliency)
    if kind is None:
        check_name(saliency)
        raise ValueError(f"saliency {saliency!r} scores by the weight alone: pass the name itself")
    options = _options(saliency)
    if kind not in statistics:
        raise ValueError(
            f"saliency {saliency!r} needs statistics of the kind {kind.__name__}, here are "
            f"{', '.join(other.__name__ for other in statistics) or 'none'}: collect them too, kinds=[{kind.__name__}]"
        )
    cls = SALIENCIES.get(SALIENCIES.split(saliency)[0])
    return {name: cls.of(statistic, **options) for name, statistic in statistics[kind].items()}


def _options(saliency: str) -> dict[str, Any]:
    """The values of the options that ``saliency``, which needs data, was written with."""
    name, texts = SALIENCIES.split(saliency)
    make = SALIENCIES.get(name).of
    keywords = make.__kwdefaults__ or {}
    hints = typing.get_type_hints(make)
    return converted(texts, {option: hints[option] for option in keywords}, what=f"saliency {name!r}")


def _collected(saliency: str, kind: type[Any]) -> str:
    """What to write to have the data that ``saliency`` needs."""
    if kind is InputNorms:
        return f"collect_activations(model, batches).saliency({saliency!r})"
    return f"from_statistics({saliency!r}, sl.statistics.collect(model, batches, [{kind.__name__}]))"


FROM_ACTIVATIONS = tuple(name for name in _BUILT_IN if needs(name) is InputNorms)
"""The built-in names that need what a model's layers are given; ``needs`` answers for every name."""
