"""The masked weights of a model: buffers, pruned values and the few things a schedule can do with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn

from sparselab import saliency as saliency_module
from sparselab.core import measures
from sparselab.core.layers import LayerWeight
from sparselab.core.patterns import Pattern
from sparselab.masks import MaskCalculator, calculator, create_mask
from sparselab.saliency import ModelSaliency
from sparselab.training.selection import AnyPattern


class MaskedWeights:
    """The sparse weights of a model, each with a bool mask buffer, which is all ones until ``compute``.

    This is what schedules act on; users meet it through ``Sparsifier``. ``keep_pruned`` adds a buffer on the CPU with the
    values that the mask took. The buffers have ASP's names and live in the layers' modules. ``before_first`` is called once,
    before the first masks are computed.
    """

    def __init__(
        self, layers: Sequence[LayerWeight], pattern: AnyPattern, saliency: ModelSaliency, keep_pruned: bool
    ) -> None:
        self.layers = list(layers)
        self.pattern = Pattern.parse(pattern) if isinstance(pattern, (str, Pattern)) else None
        self._calculate = calculator(pattern) if isinstance(pattern, (str, Pattern, MaskCalculator)) else pattern
        self.saliency = saliency
        self.keep_pruned = keep_pruned
        self.fading = False
        self.uncovered = False
        self.generation = 0
        self.gradient_scale: Tensor | None = None
        self.shares: dict[str, float] = {}
        self.before_first: Callable[[], None] | None = None
        for layer in self.layers:
            if hasattr(layer.module, mask_buffer(layer)):
                raise ValueError(
                    f"{layer.name!r} has a mask already: finalize() the Sparsifier that put it there first"
                )
        for layer in self.layers:
            weight = layer.weight.detach()
            layer.module.register_buffer(mask_buffer(layer), torch.ones_like(weight, dtype=torch.bool))
            if keep_pruned:
                layer.module.register_buffer(pruned_buffer(layer), torch.zeros_like(weight, device="cpu"))

    # -------------------------------------------------------------------------------------------------- what is there

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of every sparse weight by name (the buffers themselves, not copies)."""
        return {layer.name: _mask(layer) for layer in self.layers}

    def any_masked(self) -> bool:
        """Whether any mask takes anything."""
        return any(not bool(_mask(layer).all()) for layer in self.layers)

    def all_pruned(self) -> bool:
        """Whether every mask takes something and every weight is zero where its mask says so."""
        return bool(self.layers) and all(
            not bool(_mask(layer).all()) and not bool(layer.weight.detach().masked_select(~_mask(layer)).any())
            for layer in self.layers
        )

    def dense(self, layer: LayerWeight) -> Tensor:
        """The weight with its pruned values back, as far as they were kept."""
        weight = layer.weight.detach()
        if not self.keep_pruned or self.uncovered:
            return weight
        pruned: Tensor = getattr(layer.module, pruned_buffer(layer))
        return torch.where(_mask(layer), weight, pruned.to(weight.device, weight.dtype))

    # ------------------------------------------------------------------------------------------ what a schedule can do

    def compute(self, keep: int | None = None, *, vanish: bool = True) -> None:
        """New masks from the weights as they are, kept pruned values returned first; then prune by them.

        ``keep`` is the N of this moment, where it is not the pattern's own. With ``vanish=False`` the masks are set but
        the weights stay, for ``apply(fade)`` to take. All masks are computed before anything changes, and a failure or
        interruption while they are put in place puts back what was there.
        """
        if self.before_first is not None:
            if not self.any_masked():  # masks that were loaded belong to weights that are where they should be
                self.before_first()
            self.before_first = None
        calculate = self._calculate if keep is None else self._keeping(keep)
        dense = [self.dense(layer) for layer in self.layers]
        masks = [self.new_mask(layer, weight, calculate) for layer, weight in zip(self.layers, dense)]
        shares = {layer.name: _share(weight, mask) for layer, weight, mask in zip(self.layers, dense, masks)}
        with torch.no_grad(), self._all_or_nothing():
            for layer, weight, mask in zip(self.layers, dense, masks):
                if self.keep_pruned:
                    getattr(layer.module, pruned_buffer(layer)).copy_(torch.where(mask, 0, weight))
                _mask(layer).copy_(mask)
                layer.weight.copy_(torch.where(mask, weight, 0) if vanish else weight)
        self.shares, self.fading, self.uncovered = shares, not vanish, False
        self.generation += 1

    def lift(self) -> None:
        """Turn masks off (all ones): kept pruned values come back, others start again from zero."""
        dense = [self.dense(layer) for layer in self.layers]
        with torch.no_grad(), self._all_or_nothing():
            for layer, weight in zip(self.layers, dense):
                layer.weight.copy_(weight)
                _mask(layer).fill_(True)
                if self.keep_pruned:
                    getattr(layer.module, pruned_buffer(layer)).zero_()
        self.shares, self.fading, self.uncovered = {}, False, False
        self.generation += 1

    def uncover(self) -> None:
        """Put kept pruned values back into the weights, masks staying, so that an optimizer moves the dense weights.

        The next ``apply`` or ``compute`` takes them out and keeps them again.
        """
        if not self.keep_pruned:
            raise RuntimeError("pruned values were not kept, so they cannot be put back: use keep_pruned=True")
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(self.dense(layer))
        self.uncovered = True

    def apply(self, fade: float = 0.0) -> None:
        """Multiply what the masks take by ``fade``; at 0, the default, it is pruned."""
        with torch.no_grad():
            for layer in self.layers:
                if self.uncovered:
                    getattr(layer.module, pruned_buffer(layer)).copy_(torch.where(_mask(layer), 0, layer.weight))
                if fade:
                    layer.weight.mul_(torch.where(_mask(layer), 1.0, fade))
                else:
                    layer.weight.mul_(_mask(layer))
        self.fading, self.uncovered = self.fading and fade > 0, False

    def apply_to_gradients(self) -> None:
        """Zero the gradients of pruned weights, so that neither they nor norms and momenta see them."""
        for layer in self.layers:
            if (gradient := layer.weight.grad) is not None:
                gradient.mul_(_mask(layer))

    def decay_pruned(self, decay: float) -> None:
        """Add ``decay`` times each pruned weight to its gradient, so that a step draws it towards zero.

        Gradients that carry a factor (``gradient_scale``, of mixed precision) get it times that factor.
        """
        factor = decay if self.gradient_scale is None else decay * float(self.gradient_scale)
        for layer in self.layers:
            if (gradient := layer.weight.grad) is not None:
                gradient.add_(torch.where(_mask(layer), 0, self.dense(layer)), alpha=factor)

    # ------------------------------------------------------------------------------------------------------- the rest

    @contextmanager
    def without_buffers(self) -> Iterator[None]:
        """The model as if it had no masks; they are back afterwards."""
        kept = [(module, name, getattr(module, name)) for module, name in self._buffers()]
        self.remove()
        try:
            yield
        finally:
            for module, name, tensor in kept:
                module.register_buffer(name, tensor)

    def remove(self) -> None:
        """Take every buffer out of the model."""
        for module, name in self._buffers():
            delattr(module, name)

    def _buffers(self) -> list[tuple[nn.Module, str]]:
        return [
            (layer.module, name)
            for layer in self.layers
            for name in ((mask_buffer(layer), pruned_buffer(layer)) if self.keep_pruned else (mask_buffer(layer),))
        ]

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        tensors = [getattr(module, name) for module, name in self._buffers()] + [layer.weight for layer in self.layers]
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            yield
        except BaseException:
            for tensor, old in zip(tensors, before):
                tensor.copy_(old)
            raise

    def _keeping(self, keep: int) -> MaskCalculator:
        if self.pattern is None or self.pattern.m is None:
            raise ValueError(f"keeping {keep} of every M needs an N:M pattern such as '2:4', got {self._calculate!r}")
        density = float(Fraction(keep, self.pattern.m))
        return calculator(dataclasses.replace(self.pattern, n=keep, density=density))

    def new_mask(self, layer: LayerWeight, weight: Tensor, calculate: object = None) -> Tensor:
        """The mask that ``weight`` would get as the weight of ``layer``; nothing is changed."""
        calculate = self._calculate if calculate is None else calculate
        if not isinstance(calculate, MaskCalculator):
            assert callable(calculate)
            mask = calculate(weight)
            if not isinstance(mask, Tensor) or mask.shape != weight.shape:
                raise ValueError(
                    f"layer {layer.name!r}: the mask function must return a tensor of shape {tuple(weight.shape)}"
                )
            return mask.to(weight.device).bool()
        criterion = saliency_module.for_layer(self.saliency, layer.name)
        try:
            return create_mask(weight, calculate, channel_dim=layer.channel_dim, saliency=criterion)
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error


def _share(weight: Tensor, mask: Tensor) -> float:
    """The share of the magnitude of ``weight`` that ``mask`` keeps."""
    scores = weight.abs()
    total = float(scores.sum(dtype=torch.float64))
    return measures.retained(scores, mask) / total if total else 1.0


def mask_buffer(layer: LayerWeight) -> str:
    """The name of the buffer that holds the mask, as ASP's checkpoints have it."""
    return f"__{layer.attribute}_mma_mask"


def pruned_buffer(layer: LayerWeight) -> str:
    """The name of the buffer that holds the pruned values, as ASP's checkpoints have it."""
    return f"__{layer.attribute}_mma_pruned_p"


def _mask(layer: LayerWeight) -> Tensor:
    mask: Tensor = getattr(layer.module, mask_buffer(layer))
    return mask
