"""The masked weights of a model: buffers, pruned values, their state and what changes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparselab.core import measures
from sparselab.core.channel_order import ChannelOrder, from_json, to_json
from sparselab.core.entries import mask_name, pruned_name
from sparselab.core.layers import LayerWeight
from sparselab.core.moves import Move
from sparselab.core.progress import late_bar
from sparselab.core.readable import why_unreadable
from sparselab.core.registry import unknown_name
from sparselab.core.sharding import gathered, is_sharded, laid_out_like, local, whole
from sparselab.masks import MaskCalculator
from sparselab.network.plan import Plan, moves_name
from sparselab.training.choice import Choice


class MaskState(Enum):
    """The state of the masks on a model; ``MaskedWeights`` has what leads from one to another."""

    DENSE = "dense"  # no masks were computed: all ones, or those that a checkpoint brought
    PRUNED = "pruned"  # weights are zero where their masks say so
    FADING = "fading"  # masks are chosen, and the weights that they take are on their way to zero
    UNMASKED = "unmasked"  # masks were computed and are turned off: all ones
    RESTORED = "restored"  # kept pruned values are in the weights, for an optimizer to move
    REMOVED = "removed"  # the buffers are gone and the model is a plain one


@dataclass(frozen=True, eq=False)
class _Decided:
    """What is to become of one weight, ``dense`` as it is: this process's part, where it is sharded.

    ``share`` is what the mask keeps of the magnitude of the whole weight.
    """

    dense: Tensor
    mask: Tensor
    weight: Tensor
    share: float


class MaskedWeights:
    """The sparse weights of a model, each with a bool mask buffer, and the state that they are in.

    This is what schedules act on; users meet it through ``Sparsifier``. The buffers have ASP's names
    and live in the layers' modules once ``add_buffers`` was called; masks are all ones until
    ``compute``. ``keep_pruned`` adds a buffer on the CPU with what pruning took: values where the
    mask is False, and where it is True what the pruner took off (0, if it changes no weight).
    ``before_first`` is called before the first masks are computed.

    Where weights are sharded (``DTensor``), their buffers are sharded alike, from the moment when
    they are first used. Masks are chosen from whole weights, gathered one after the other; all else
    is done to the part that each process holds. So every process has to make the same calls.

    A schedule acts through ``compute``, ``unmask``, ``restore_dense``, ``apply``,
    ``apply_to_gradients`` and ``decay_pruned``. The ``Sparsifier`` reports everything else that
    happens: ``begin_step`` and ``end_step``; ``settle`` where a step may have failed; ``follow``
    when a plan has moved the weights; ``load_state_dict`` when a run is resumed.
    """

    def __init__(
        self,
        layers: Sequence[LayerWeight],
        choice: Choice,
        keep_pruned: bool,
        before_first: Callable[[], None],
        progress: bool = True,
    ) -> None:
        self.layers = list(layers)
        self.progress = progress
        self.choice = self._dense_choice = choice
        self.keep_pruned = keep_pruned
        self.state = MaskState.DENSE
        self.generation = 0
        self.shares: dict[str, float] = {}
        self.plan = Plan()
        self.permuted = False
        self._before_first = before_first
        self._stepping = False
        self._masks_due = False
        self._gradient_scale: Tensor | None = None

    def add_buffers(self) -> None:
        """Give every weight a mask of ones; ``ValueError``, before any, if one has a mask already."""
        for layer in self.layers:
            if hasattr(layer.module, mask_buffer(layer)):
                raise ValueError(
                    f"{layer.name!r} has a mask already: finalize() the Sparsifier that put it there "
                    "first. A copy of a masked model needs a copy of its Sparsifier, made in one "
                    "call: copy.deepcopy((model, optimizer, sparsifier))"
                )
        for layer in self.layers:
            weight = layer.weight.detach()
            layer.module.register_buffer(mask_buffer(layer), torch.ones_like(weight, dtype=torch.bool))
            if self.keep_pruned:
                where = None if is_sharded(weight) else "cpu"  # a part stays where its process group looks for it
                layer.module.register_buffer(pruned_buffer(layer), torch.zeros_like(weight, device=where))

    def lay_out(self) -> None:
        """Have every buffer sharded as its weight is by now, as a state to be loaded has them."""
        for layer in self.layers:
            for name in self._names(layer):
                _beside(layer, name)

    # -------------------------------------------------------------------------------------------------- what is there

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of every sparse weight by name (the buffers themselves, not copies)."""
        return {layer.name: _beside(layer, mask_buffer(layer)) for layer in self.layers}

    def mask_of(self, layer: LayerWeight) -> Tensor:
        """The mask of one of ``layers`` (the buffer itself)."""
        return _mask(layer)

    def buffer_names(self) -> list[str]:
        """The names that masks and kept pruned values have in the model."""
        buffers = (mask_buffer, pruned_buffer) if self.keep_pruned else (mask_buffer,)
        return [layer.name.removesuffix(layer.attribute) + name(layer) for layer in self.layers for name in buffers]

    def any_masked(self) -> bool:
        """Whether any mask takes anything."""
        return any(not bool(whole(mask).all()) for mask in self.masks.values())

    def all_pruned(self) -> bool:
        """Whether every mask takes something and every weight is zero where its mask says so."""
        return bool(self.layers) and all(_is_pruned(layer) for layer in self.layers)

    def dense(self, layer: LayerWeight) -> Tensor:
        """The weight with its pruned values back, and a pruner's changes undone, as far as they were kept.

        Whole, where it is sharded.
        """
        return gathered(self._dense(layer), layer.weight)

    def _dense(self, layer: LayerWeight) -> Tensor:
        weight = _weight(layer).detach()
        if not self.keep_pruned or self.state is MaskState.RESTORED:
            return weight
        taken = _taken(layer)
        return torch.where(_mask(layer), weight + taken, taken)

    # ------------------------------------------------------------------------------------------ what a schedule can do

    def compute(self, stage: MaskCalculator | None = None, *, vanish: bool = True) -> None:
        """New masks from the weights as they are, kept pruned values returned first; then prune by them.

        ``stage`` is the calculator of this moment, where it is not the final one. With
        ``vanish=False`` the masks are set but the weights stay, for ``apply(fade)`` to take. All
        masks are computed before anything changes, and a failure or interruption while they are put
        in place puts back what was there. ``RuntimeError`` after ``remove``.
        """
        self.require_buffers()
        self.catch_up()
        # Masks that a checkpoint brought belong to weights that are where they should be.
        if self.state is MaskState.DENSE and not self.any_masked():
            self._before_first()
        layers = late_bar("masks", "weight", self.layers, progress=self.progress)
        self._put([self._decide(layer, stage) for layer in layers], vanish)

    def unmask(self) -> None:
        """Turn masks off (all ones): kept pruned values come back, others start again from zero.

        ``RuntimeError`` after ``remove``.
        """
        self.require_buffers()
        dense = [self._dense(layer) for layer in self.layers]
        with torch.no_grad(), self._all_or_nothing():
            for layer, weight in zip(self.layers, dense):
                _weight(layer).copy_(weight)
                _mask(layer).fill_(True)
                if self.keep_pruned:
                    _kept(layer).zero_()
        self.shares = {}
        if self.state is not MaskState.DENSE:
            self.state = MaskState.UNMASKED
        self.generation += 1

    def restore_dense(self) -> None:
        """Put kept pruned values back into the weights, for an optimizer to move; masks stay.

        The next ``apply`` or ``compute`` takes them out and keeps them again. Where no masks were
        computed, or they are off, the weights are dense and nothing is done. Raises
        ``RuntimeError`` when pruned values were not kept, while weights fade, and after ``remove``.
        """
        self.require_buffers()
        if not self.keep_pruned:
            raise RuntimeError("pruned values were not kept, so they cannot be put back: use keep_pruned=True")
        if self.state is MaskState.FADING:
            raise RuntimeError(
                "the weights that masks take are fading and still in the model, so there is nothing "
                "to put back: prune them by apply() first, or turn masks off by unmask()"
            )
        if self.state is not MaskState.PRUNED:
            return
        with torch.no_grad():
            for layer in self.layers:
                _weight(layer).copy_(self._dense(layer))
        self.state = MaskState.RESTORED

    def apply(self, fade: float = 0.0) -> None:
        """Multiply what the masks take by ``fade``; at 0, the default, it is pruned.

        Raises ``RuntimeError`` for any other ``fade`` after ``restore_dense``, whose values are kept
        and do not fade.
        """
        restored = self.state is MaskState.RESTORED
        if restored and fade:
            raise RuntimeError(
                f"apply({fade}) would fade the dense weights that restore_dense() put back: apply() "
                "takes them out and keeps them; to let them fade, compute(vanish=False) first"
            )
        with torch.no_grad():
            for layer in self.layers:
                weight, mask = _weight(layer), _mask(layer)
                if restored:
                    taken = _taken(layer)
                    _kept(layer).copy_(torch.where(mask, taken, weight))
                    weight.sub_(torch.where(mask, taken, 0))
                if fade:
                    weight.mul_(torch.where(mask, 1.0, fade))
                else:
                    weight.mul_(mask)
        if self.state in (MaskState.PRUNED, MaskState.FADING, MaskState.RESTORED):
            self.state = MaskState.FADING if fade else MaskState.PRUNED

    def apply_to_gradients(self) -> None:
        """Zero the gradients of pruned weights, so that norms and momenta do not see them either."""
        for layer in self.layers:
            if (gradient := layer.weight.grad) is not None:
                local(gradient).mul_(_mask(layer))

    def decay_pruned(self, decay: float) -> None:
        """Add ``decay`` times each pruned weight to its gradient, so that a step draws it towards zero.

        Gradients that carry a factor in this step (of mixed precision) get it times that factor.
        """
        factor = decay if self._gradient_scale is None else decay * float(self._gradient_scale)
        for layer in self.layers:
            if (gradient := layer.weight.grad) is not None:
                local(gradient).add_(torch.where(_mask(layer), 0, self._dense(layer)), alpha=factor)

    # ------------------------------------------------------------------ what the Sparsifier reports

    def begin_step(self, optimizer: Optimizer) -> None:
        """``optimizer`` is about to move the weights; a step that failed before is settled first.

        ``RuntimeError`` where the state that was loaded is that of a pruned model and no masks came.
        """
        self._require_loaded_masks()
        self.settle()
        self.catch_up()
        self._stepping = True
        # A fused optimizer divides gradients by GradScaler's factor inside its step, so until then
        # they carry it.
        self._gradient_scale = getattr(optimizer, "grad_scale", None)

    def end_step(self) -> None:
        """The step is over, and the weights are as the schedule wants them."""
        self._stepping, self._gradient_scale = False, None

    def settle(self) -> None:
        """Take out what a step that failed half-way put where masks say zero, if one did."""
        if self._stepping:
            self.end_step()
            if self.state is not MaskState.FADING:
                self.apply()

    def follow(self, plan: Plan) -> None:
        """``plan`` has moved the dense weights: scores and statistics move likewise.

        They follow everything that has moved the weights since the Sparsifier was made.
        """
        self._follow((*self.plan.moves, *plan.moves))
        self.permuted = self.permuted or bool(len(plan))

    def choose_in(self, orders: Mapping[str, ChannelOrder]) -> None:
        """From now on the masks of some weights, as they are now, are chosen in ``orders`` of their own, by name."""
        before = self.plan.inverse().moved(orders)  # those of the weights that the choice was made for
        self._dense_choice = dataclasses.replace(self._dense_choice, orders=before)
        self._follow(self.plan.moves)
        self.permuted = self.permuted or bool(orders)

    def catch_up(self) -> None:
        """Follow the plans that were applied to the masked model since, as its modules have noted them.

        ``Plan.apply`` has moved masks and kept values; it does not know of scores and statistics.
        """
        moves = []
        for layer in self.layers:
            noted = layer.module.__dict__.pop(moves_name(layer.attribute), ())
            moves += [dataclasses.replace(move, names=(layer.name,)) for move in noted]
        if moves:
            self._follow((*self.plan.moves, *moves))

    def _follow(self, moves: tuple[Move, ...]) -> None:
        self.plan = Plan(moves)
        self.choice = self._dense_choice.moved(self.layers, self.plan)

    def state_dict(self) -> dict[str, Any]:
        """The state, what masks kept and what moved the weights; masks are in the model's own."""
        self.catch_up()
        return {
            "state": self.state.value,
            "shares": dict(self.shares),
            "plan": self.plan.to_json(),
            "permuted": self.permuted,
            **({"orders": to_json(self._dense_choice.orders)} if self._dense_choice.orders else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; masks and weights come with the model's own.

        Raises ``ValueError`` for a state without masks or of another name, and ``RuntimeError`` after ``remove``.
        """
        self.require_buffers()
        loaded = _state_named(state["state"]) if "state" in state else _state_of_older(state)
        if loaded is MaskState.REMOVED:
            raise ValueError("this state was taken after finalize(): it has no masks to go on with")
        if "plan" in state:
            self.catch_up()  # to forget what moved the weights that are replaced
            if "orders" in state:
                self._dense_choice = dataclasses.replace(self._dense_choice, orders=from_json(state["orders"]))
            self._follow(Plan.from_json(state["plan"]).moves)
            self.permuted = bool(state.get("permuted", len(self.plan)))
        self.state, self.shares = loaded, dict(state["shares"])
        self._masks_due = any(share < 1 for share in self.shares.values())
        self.end_step()  # what a step that failed here left is replaced

    def remove(self) -> None:
        """Take every buffer out of the model for good; the weights stay as they are."""
        self._remove_buffers()
        self.layers.clear()
        self.end_step()
        self.state = MaskState.REMOVED

    def require_buffers(self) -> None:
        """Raise ``RuntimeError`` after ``remove``."""
        if self.state is MaskState.REMOVED:
            raise RuntimeError("finalize() took the masks out of this model: make a new Sparsifier to prune it again")

    # ------------------------------------------------------------------------------------------------------- the rest

    def _require_loaded_masks(self) -> None:
        if self._masks_due and not self.any_masked():
            raise RuntimeError(
                "the state that was loaded is that of a pruned model, but no mask in the model takes anything, "
                "so a step would train it dense. Masks come with the model's own state: load what "
                "model.state_dict() gave (save_pretrained leaves masks out)"
            )
        self._masks_due = False

    @contextmanager
    def without_buffers(self) -> Iterator[None]:
        """The model as if it had no masks; they are back afterwards."""
        kept = [(module, name, getattr(module, name)) for module, name in self._buffers()]
        self._remove_buffers()
        try:
            yield
        finally:
            for module, name, tensor in kept:
                module.register_buffer(name, tensor)

    def _remove_buffers(self) -> None:
        self.catch_up()
        for module, name in self._buffers():
            delattr(module, name)

    def _buffers(self) -> list[tuple[nn.Module, str]]:
        return [(layer.module, name) for layer in self.layers for name in self._names(layer)]

    def _names(self, layer: LayerWeight) -> tuple[str, ...]:
        return (mask_buffer(layer), pruned_buffer(layer)) if self.keep_pruned else (mask_buffer(layer),)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        buffers = [local(getattr(module, name)) for module, name in self._buffers()]
        tensors = buffers + [_weight(layer) for layer in self.layers]
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            yield
        except BaseException:
            for tensor, old in zip(tensors, before):
                tensor.copy_(old)
            raise

    def _decide(self, layer: LayerWeight, stage: MaskCalculator | None) -> _Decided:
        """What is to become of a weight; nothing is changed, and the whole of a sharded one is let go of."""
        dense = self._dense(layer)
        everything = gathered(dense, layer.weight)
        pruned = self.choice(layer, everything, stage)
        mask, weight = (local(laid_out_like(each, layer.weight)) for each in (pruned.mask, pruned.weight))
        return _Decided(dense, mask, weight, measures.retained_percent(everything, pruned.mask) / 100)

    def _put(self, decided: Sequence[_Decided], vanish: bool) -> None:
        """Put what was decided in place: all or, on any failure, none."""
        with torch.no_grad(), self._all_or_nothing():
            for layer, found in zip(self.layers, decided):
                if self.keep_pruned:
                    _kept(layer).copy_(found.dense - found.weight)
                _mask(layer).copy_(found.mask)
                _weight(layer).copy_(found.weight if vanish else torch.where(found.mask, found.weight, found.dense))
        self.shares = {layer.name: found.share for layer, found in zip(self.layers, decided)}
        self.state = MaskState.PRUNED if vanish else MaskState.FADING
        self.generation += 1

    def new_mask(self, layer: LayerWeight, weight: Tensor) -> Tensor:
        """The mask that ``weight`` would get as the weight of ``layer``; nothing is changed."""
        self.catch_up()
        return self.choice(layer, weight).mask


def _state_named(name: str) -> MaskState:
    names = {state.value: state for state in MaskState}
    if name not in names:
        raise unknown_name("state of masks", str(name), names)
    return names[name]


def _state_of_older(state: Mapping[str, Any]) -> MaskState:
    """The state that a ``state_dict`` without one was taken in."""
    if state["fading"]:
        return MaskState.FADING
    if state["shares"]:
        return MaskState.PRUNED
    return MaskState.UNMASKED if state.get("computed") else MaskState.DENSE


def mask_buffer(layer: LayerWeight) -> str:
    """The name of the buffer that holds the mask, as ASP's checkpoints have it."""
    return mask_name(layer.attribute)


def pruned_buffer(layer: LayerWeight) -> str:
    """The name of the buffer that holds the pruned values, as ASP's checkpoints have it."""
    return pruned_name(layer.attribute)


def _is_pruned(layer: LayerWeight) -> bool:
    """Whether the mask takes something, and the weight, which can be read, is zero where it says so."""
    if why_unreadable(layer.weight) is not None:
        return False
    mask, weight = (whole(tensor) for tensor in (_beside(layer, mask_buffer(layer)), layer.weight.detach()))
    return mask.shape == weight.shape and not bool(mask.all()) and not bool(weight.masked_select(~mask).any())


# What follows is the part that this process holds, where a weight is sharded.


def _weight(layer: LayerWeight) -> Tensor:
    """The weight, to be changed in place."""
    return local(layer.weight)


def _mask(layer: LayerWeight) -> Tensor:
    return local(_beside(layer, mask_buffer(layer)))


def _kept(layer: LayerWeight) -> Tensor:
    """The buffer with what pruning took off the weight."""
    return local(_beside(layer, pruned_buffer(layer)))


def _taken(layer: LayerWeight) -> Tensor:
    """What pruning took off the weight, as the weight is stored."""
    weight = _weight(layer)
    return _kept(layer).to(weight.device, weight.dtype)


def _beside(layer: LayerWeight, name: str) -> Tensor:
    """A buffer of the weight's shape, which is sharded as soon as the weight is found to be."""
    buffer: Tensor = getattr(layer.module, name)
    weight = layer.weight
    if is_sharded(weight) and (laid_out := laid_out_like(buffer, weight)) is not buffer:
        setattr(layer.module, name, laid_out)
        return laid_out
    return buffer
