"""Low-rank adapters that keep the zeros of the weights that they adapt, while they are trained and once merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselab.core.models import as_eager


def mask_lora(model: nn.Module) -> list[str]:
    """Have the LoRA adapters of ``model`` adapt only those weights of their layers that are not zero.

    ``model`` is what ``peft.get_peft_model`` made of a pruned one. An adapted layer computes with
    ``W + M * s B A`` from here on, ``M`` being where its own weight ``W`` is not zero and ``s`` peft's
    scaling: the adapters learn under the masks, and ``merge_and_unload()`` leaves a model with the
    same zeros that answers as the trained one did (an unmasked adapter fills them when it is merged,
    and masking it afterwards gives a model that nobody trained). Of layers without zeros nothing but
    the rounding changes. Masks need no memory; a product ``B A`` of the size of the weight is made in
    each forward pass. Returns the names of the adapted layers, in the order of the model.

    Layers are Linear ones, with or without dropout; a ``Sparsifier`` may hold the masks as well. For
    adapters that are added later call it again. Where no layer is adapted that has zeros, there is
    nothing to keep, which is a ``ValueError``; so are convolutions with zeros, and variants of LoRA
    (DoRA), whose merge is another.

    The MaskLoRA of Zimmer et al., "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs"
    (arXiv 2312.15230), on the variants of LoRA layers that peft has from 0.16 on.

    >>> import peft, sparselab as sl
    >>> model = nn.Sequential(nn.Linear(16, 8))
    >>> sl.Sparsifier(model, "2:4").compute()
    >>> adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    >>> mask_lora(adapted)
    ['base_model.model.0']
    >>> int(adapted.merge_and_unload()[0].weight.count_nonzero())
    64
    """
    layers = dict(_adapted(as_eager(model, "mask_lora")))
    if not any(bool((_weight(layer) == 0).any()) for layer in layers.values()):
        raise ValueError(
            "no LoRA adapter of peft on a layer with zeros: prune the model, then give it adapters "
            f"(peft.get_peft_model), then call this; {len(layers)} adapted layers were found"
        )
    for name, layer in layers.items():
        if not isinstance(layer.get_base_layer(), nn.Linear):
            raise ValueError(
                f"{name!r} adapts a {type(layer.get_base_layer()).__name__}: only Linear layers are masked"
            )
        if not hasattr(layer, "lora_variant"):
            raise ValueError(f"{name!r} has no variants: they came with peft 0.16; install a later one")
        others = [each for each in layer.lora_variant.values() if not isinstance(each, _MaskLoRA)]
        if others:
            raise ValueError(f"{name!r} is a {type(others[0]).__name__}: only plain LoRA is masked")
    for layer in layers.values():
        for adapter in layer.lora_A:
            layer.lora_variant[adapter] = _MaskLoRA()
    return list(layers)


class _MaskLoRA:
    """How peft's layers ask a variant of LoRA (``peft.tuners.lora.layer.LoraVariant``); it holds nothing itself."""

    def supports_lora_conversion(self) -> bool:
        """Whether its product is of low rank: under masks it is not."""
        return False

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Nothing has to be made."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """What the layer returns, of which ``result`` is its own weight's part."""
        bias = module.lora_B[active_adapter].bias
        scaled = None if bias is None else bias * module.scaling[active_adapter]
        return result + F.linear(module.lora_dropout[active_adapter](x), _masked(module, active_adapter), scaled)

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The merged weight."""
        return orig_weight + _masked(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Merge into the layer's weight."""
        with torch.no_grad():
            orig_weight.add_(_masked(module, active_adapter).to(orig_weight.dtype))

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight before it was merged."""
        return orig_weight.detach() - _masked(module, active_adapter).detach().to(orig_weight.dtype)


def _masked(layer: Any, adapter: str) -> Tensor:
    """What an adapter adds to the weight of its layer."""
    change: Tensor = layer.get_delta_weight(adapter)
    return change.masked_fill(_weight(layer) == 0, 0)


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.get_base_layer().weight
    return weight.detach()


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers of peft that hold LoRA adapters of a weight (embeddings hold theirs under other names)."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "lora_A", None), nn.ModuleDict) and len(module.lora_A):
            yield name, module
