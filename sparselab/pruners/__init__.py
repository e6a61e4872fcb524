"""Pruners: what stays of a weight, and what value it has. One file each, one registry line each."""

from __future__ import annotations

from sparselab.core.registry import Registry, unknown_name
from sparselab.pruners.by_saliency import BySaliency
from sparselab.pruners.pruner import Pruned, Pruner
from sparselab.saliency import SALIENCIES, check_name

PRUNERS: Registry[Pruner] = Registry(
    "pruner",
    {
        "by_saliency": "sparselab.pruners.by_saliency:BySaliency",
        "sparsegpt": "sparselab.pruners.sparsegpt:SparseGPT",
        "admm": "sparselab.pruners.admm:ADMM",
        "alps": "sparselab.pruners.alps:ALPS",
        "swaps": "sparselab.pruners.swaps:Swaps",
    },
    group="sparselab.pruners",
)


def get_pruner(pruner: str | Pruner) -> Pruner:
    """The pruner that a name with options stands for; an object is returned as it is.

    The name of a saliency is the pruner that masks by it: ``"wanda"`` is ``"by_saliency,wanda"``.
    Raises ``ValueError`` for an unknown name, listing the valid ones, and for what is no pruner.

    >>> get_pruner("magnitude")
    BySaliency(saliency='magnitude')
    """
    if not isinstance(pruner, str):
        if isinstance(pruner, type) or not callable(pruner):
            raise ValueError(f"a pruner is a name with options or an object such as BySaliency(), got {pruner!r}")
        if not hasattr(pruner, "needs"):
            raise ValueError(
                f"{pruner!r} says no `needs`: the kind of statistics that it prunes by, or None for the weight alone"
            )
        return pruner
    name = SALIENCIES.split(pruner)[0]
    if name in SALIENCIES and name not in PRUNERS:
        check_name(pruner)
        return BySaliency(pruner)
    if name not in PRUNERS:
        raise unknown_name("pruner", name, [*PRUNERS.names(), *SALIENCIES.names()])
    return PRUNERS.resolve(pruner)


__all__ = ["PRUNERS", "BySaliency", "Pruned", "Pruner", "get_pruner"]
