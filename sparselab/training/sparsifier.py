"""Masks on a model, kept through training: as many models and optimizers as you like, no global state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparselab import measures
from sparselab import saliency as saliency_module
from sparselab.eligibility import LayerWeight, layer_weights, why_not
from sparselab.masks import MaskCalculator, calculator, create_mask
from sparselab.patterns import Pattern
from sparselab.saliency import ModelSaliency


class Sparsifier:
    """Prunes a model to a pattern and keeps it pruned while attached optimizers train it.

    Masks live in the model as bool buffers under ASP's names (``__weight_mma_mask``), so they follow ``.to(device)``
    and ``state_dict``; with ``keep_pruned`` the pruned values are kept too (``__weight_mma_pruned_p``), and come back
    before a mask is computed again. Nothing is pruned before ``compute()``.

    ``include`` and ``exclude`` are names of weights or modules, ``*`` and ``?`` allowed. ``saliency`` is a name, a
    callable, or a mapping from weight name to either. ``rule`` is an eligibility rule (``"divisible"``, ``"asp"``),
    ``layer_types`` the module types to prune. Raises ``ValueError`` for unknown names and for a model that has masks
    already.

    >>> model = nn.Linear(16, 8)
    >>> sparsifier = Sparsifier(model, "2:4")
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier.attach(optimizer)
    >>> sparsifier.compute()
    >>> model(torch.randn(2, 16)).sum().backward(); optimizer.step()
    >>> int(model.weight.count_nonzero())
    64
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: str | Pattern | MaskCalculator | Callable[[Tensor], Tensor] = "2:4",
        *,
        saliency: ModelSaliency = "magnitude",
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        rule: str = "divisible",
        layer_types: Sequence[type[nn.Module]] | None = None,
        keep_pruned: bool = False,
    ) -> None:
        self.model = model
        self._calculate = calculator(pattern) if isinstance(pattern, (str, Pattern, MaskCalculator)) else pattern
        self.saliency = saliency
        self.keep_pruned = keep_pruned
        self._hooked: list[tuple[Optimizer, list[Any]]] = []
        chosen = _Chosen(include, exclude, layer_types)
        self._reasons: dict[str, str | None] = {}
        self._layers: list[LayerWeight] = []
        for layer in layer_weights(model):
            reason = chosen.why_not(layer) or why_not(layer.module, layer.attribute, _shape_pattern(pattern), rule)
            self._reasons[layer.name] = reason
            if reason is None:
                self._layers.append(layer)
        for layer in self._layers:
            if hasattr(layer.module, mask_buffer(layer)):
                raise ValueError(
                    f"{layer.name!r} has a mask already: finalize() the Sparsifier that put it there first"
                )
        for layer in self._layers:
            weight = layer.weight.detach()
            layer.module.register_buffer(mask_buffer(layer), torch.ones_like(weight, dtype=torch.bool))
            if keep_pruned:
                layer.module.register_buffer(pruned_buffer(layer), torch.zeros_like(weight, device="cpu"))

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of every sparse weight by name (the buffers themselves, not copies)."""
        return {layer.name: _mask(layer) for layer in self._layers}

    @property
    def enabled(self) -> bool:
        """Whether every sparse weight is masked now (also after loading a checkpoint of a pruned model)."""
        return bool(self._layers) and not any(bool(_mask(layer).all()) for layer in self._layers)

    def compute(self) -> None:
        """Compute a mask from the weights as they are and prune by it.

        With ``keep_pruned`` the pruned values return first. All masks are computed before the first weight changes,
        so an error leaves the model as it was. Raises ``ValueError`` naming the layer for weights that are not
        finite, and ``RuntimeError`` when the model is pruned already and the pruned values were not kept.
        """
        if not self.keep_pruned and any(not bool(_mask(layer).all()) for layer in self._layers):
            raise RuntimeError(
                "masks are computed already and the pruned values are gone, so a new mask could only be the old one; "
                "use keep_pruned=True (ASP: allow_recompute_mask=True) to recompute"
            )
        dense = [self._dense(layer) for layer in self._layers]
        masks = [self._new_mask(layer, weight) for layer, weight in zip(self._layers, dense)]
        with torch.no_grad():
            for layer, weight, mask in zip(self._layers, dense, masks):
                if self.keep_pruned:
                    getattr(layer.module, pruned_buffer(layer)).copy_(torch.where(mask, 0, weight))
                _mask(layer).copy_(mask)
                layer.weight.copy_(torch.where(mask, weight, 0))

    def restore(self) -> None:
        """Bring the pruned values back and turn masks off (all ones); needs ``keep_pruned``, else ``RuntimeError``."""
        if not self.keep_pruned:
            raise RuntimeError("pruned values were not kept: use keep_pruned=True (ASP: allow_recompute_mask=True)")
        with torch.no_grad():
            for layer in self._layers:
                layer.weight.copy_(self._dense(layer))
                _mask(layer).fill_(True)
                getattr(layer.module, pruned_buffer(layer)).zero_()

    def attach(self, optimizer: Optimizer) -> None:
        """Keep masks through ``optimizer``'s steps: gradients are masked before a step, weights after it.

        Uses PyTorch's step hooks, so any optimizer will do. Attaching twice changes nothing.
        """
        if any(known is optimizer for known, _ in self._hooked):
            return
        handles = [
            optimizer.register_step_pre_hook(lambda *_: self._mask_gradients()),
            optimizer.register_step_post_hook(lambda *_: self._mask_weights()),
        ]
        self._hooked.append((optimizer, handles))

    def finalize(self) -> None:
        """Leave a plain model: zeros stay in the weights, optimizer hooks and mask buffers go."""
        self._mask_weights()
        for _, handles in self._hooked:
            for handle in handles:
                handle.remove()
        self._hooked.clear()
        for layer in self._layers:
            delattr(layer.module, mask_buffer(layer))
            if self.keep_pruned:
                delattr(layer.module, pruned_buffer(layer))
        self._layers.clear()

    def frame(self) -> pd.DataFrame:
        """A row a layer: ``layer, shape, eligible, reason, density, retained_percent`` (of the magnitude it had)."""
        sparse = {layer.name: layer for layer in self._layers}
        rows = []
        for layer in layer_weights(self.model):
            reason = self._reasons.get(layer.name, "added after the Sparsifier was made")
            density = retained = 1.0
            if layer.name in sparse:
                mask, dense = _mask(layer), self._dense(layer).abs()
                density = float(mask.float().mean())
                total = float(dense.sum(dtype=torch.float64))
                retained = measures.retained(dense, mask) / total if total else 1.0
            rows.append((layer.name, tuple(layer.weight.shape), reason is None, reason or "", density, 100 * retained))
        return pd.DataFrame(rows, columns=["layer", "shape", "eligible", "reason", "density", "retained_percent"])

    def _dense(self, layer: LayerWeight) -> Tensor:
        """The weight with its pruned values back (as far as they were kept)."""
        weight = layer.weight.detach()
        if not self.keep_pruned:
            return weight
        pruned: Tensor = getattr(layer.module, pruned_buffer(layer))
        return torch.where(_mask(layer), weight, pruned.to(weight.device, weight.dtype))

    def _new_mask(self, layer: LayerWeight, weight: Tensor) -> Tensor:
        if not isinstance(self._calculate, MaskCalculator):
            return _checked_mask(self._calculate(weight), weight, layer.name)
        criterion = saliency_module.for_layer(self.saliency, layer.name)
        try:
            return create_mask(weight, self._calculate, channel_dim=layer.channel_dim, saliency=criterion)
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error

    def _mask_gradients(self) -> None:
        for layer in self._layers:
            if layer.weight.grad is not None:
                layer.weight.grad.mul_(_mask(layer))

    def _mask_weights(self) -> None:
        with torch.no_grad():
            for layer in self._layers:
                layer.weight.mul_(_mask(layer))


class _Chosen:
    """Which layers the user asked for."""

    def __init__(
        self, include: Iterable[str] | None, exclude: Iterable[str], layer_types: Sequence[type[nn.Module]] | None
    ) -> None:
        self.include = None if include is None else list(include)
        self.exclude = list(exclude)
        self.layer_types = None if layer_types is None else tuple(layer_types)

    def why_not(self, layer: LayerWeight) -> str | None:
        names = (layer.name, layer.name.rpartition(".")[0])
        if self.layer_types is not None and not isinstance(layer.module, self.layer_types):
            return f"{type(layer.module).__name__} is not among the layer types to prune"
        if self.include is not None and not _any_match(names, self.include):
            return "not in include"
        return "in exclude" if _any_match(names, self.exclude) else None


def _any_match(names: Sequence[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _shape_pattern(pattern: str | Pattern | MaskCalculator | Callable[[Tensor], Tensor]) -> Pattern:
    """The pattern whose M the eligibility rule checks; a user's own function may take any shape."""
    if isinstance(pattern, MaskCalculator):
        outputs, channels = pattern.multiples
        return Pattern("1d" if outputs == 1 else "2d", channels, channels, 1.0)
    return Pattern.parse(pattern) if isinstance(pattern, (str, Pattern)) else Pattern("function", 1, 1, 1.0)


def _checked_mask(mask: Tensor, weight: Tensor, name: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != weight.shape:
        raise ValueError(f"layer {name!r}: the mask function must return a tensor of shape {tuple(weight.shape)}")
    return mask.bool()


def mask_buffer(layer: LayerWeight) -> str:
    """The name of the buffer that holds the mask, as ASP's checkpoints have it."""
    return f"__{layer.attribute}_mma_mask"


def pruned_buffer(layer: LayerWeight) -> str:
    """The name of the buffer that holds the pruned values, as ASP's checkpoints have it."""
    return f"__{layer.attribute}_mma_pruned_p"


def _mask(layer: LayerWeight) -> Tensor:
    mask: Tensor = getattr(layer.module, mask_buffer(layer))
    return mask
