"""Which weights of a model are pruned block by block, and for each of the others the reason why not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sparselab.core.entries import mask_name
from sparselab.core.layers import LayerWeight, ModelWeight, Names, model_weights
from sparselab.core.readable import why_no_arithmetic
from sparselab.core.weight_matrix import channel_dim_of
from sparselab.layerwise.block import Method
from sparselab.layerwise.chain import Chain
from sparselab.masks.eligibility import why_not_pruned
from sparselab.statistics.layers import weight_uses


@dataclass(frozen=True, eq=False)
class Chosen:
    """A weight of the model: the number of its ``block`` (``None``: outside), and why it is not pruned, if so."""

    layer: ModelWeight
    block: int | None
    reason: str | None


def chosen(chain: Chain, names: Names, method: Method) -> list[Chosen]:
    """Every weight of the model, in the order of its modules.

    Raises ``ValueError`` for a name that matches nothing, for weights without values or with a mask
    already, and where no weight can be pruned.
    """
    model = chain.model
    layers = list(model_weights(model))
    names.check(model, layers)
    for layer in layers:
        if nn.parameter.is_lazy(layer.weight) or layer.weight.is_meta:
            raise ValueError(f"{layer.name!r} has no values yet: load them, or run a lazy layer once, and prune then")
        if hasattr(layer.module, mask_name(layer.attribute)):
            raise ValueError(f"{layer.name!r} is masked already: finalize() the Sparsifier first, then prune")
    blocks = {id(module): number for number, block in enumerate(chain.blocks) for module in block.module.modules()}
    holders = _holders(model)
    told = {use.name for use in weight_uses(model)}
    found = []
    for layer in layers:
        reason = _tied(layer, holders.get(id(layer.weight), []), blocks) if isinstance(layer, LayerWeight) else None
        reason = reason or why_not_pruned(layer, method.calculate, names=names)
        reason = reason or _unusable(layer.weight)
        if reason is None and method.pruner.needs is not None and layer.name not in told:
            reason = "no statistics: no call of a module tells what it is given"
        block = blocks.get(id(layer.module))
        found.append(Chosen(layer, block, reason or (None if block is not None else _outside(chain))))
    if all(each.reason for each in found):
        reasons = "; ".join(dict.fromkeys(f"{each.layer.name}: {each.reason}" for each in found[:3]))
        raise ValueError(f"pattern {method.calculate} prunes no weight of the model ({reasons or 'it has none'})")
    return found


def _holders(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """Every place of every parameter: the full name, the module and the name there."""
    found: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for prefix, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((f"{prefix}.{own}" if prefix else own, module, own))
    return found


def _tied(layer: LayerWeight, holders: list[tuple[str, nn.Module, str]], blocks: dict[int, int]) -> str | None:
    """Why ``layer`` cannot be pruned by itself: its weight is another's too, of which the data of its block say nothing."""
    for name, module, own in holders:
        if channel_dim_of(module, own) is None or blocks.get(id(module)) != blocks.get(id(layer.module)):
            return f"tied to {name}"
    return None


def _unusable(weight: Tensor) -> str | None:
    """Why nothing can be made of the numbers of ``weight``, which can be read."""
    return why_no_arithmetic(weight) if weight.numel() else f"empty: its shape is {tuple(weight.shape)}"


def _outside(chain: Chain) -> str:
    first, last = chain.blocks[0].name, chain.blocks[-1].name
    return f"outside the blocks ({first} to {last})"
