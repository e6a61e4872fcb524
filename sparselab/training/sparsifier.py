"""Masks on a model, kept through training: as many models and optimizers as you like, no global state."""

from __future__ import annotations

import functools
import logging
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparselab.core.channel_order import ChannelOrder
from sparselab.core.keywords import PERMUTATION, instead
from sparselab.core.layers import Custom, LayerWeight, Names, layer_weights
from sparselab.core.models import as_eager, unwrap
from sparselab.core.optimizers import innermost, lasting, levels, takes_hooks
from sparselab.core.readable import (
    refuse_flattened,
    require_finite,
    require_some_values,
    shape_of,
    why_no_arithmetic,
    why_unreadable,
)
from sparselab.core.sharding import laid_out_like, local, reshard
from sparselab.masks import AnyPattern
from sparselab.permutation.strategy import Strategy
from sparselab.pruners import Pruner
from sparselab.saliency import ModelSaliency
from sparselab.training.choice import Choice, Statistics
from sparselab.training.frame import SparsifierFrame, row_of
from sparselab.training.masked import MaskedWeights, MaskState, mask_buffer, pruned_buffer
from sparselab.training.optimizers import not_moved, require_weights
from sparselab.training.pretrained import leave_out, put_back
from sparselab.training.schedules import Schedule, as_schedule
from sparselab.training.second_copies import SecondCopies
from sparselab.training.selection import Selection, packed_by_trace, say_what_was_chosen
from sparselab.training.sharding import ready_for_masks, require_steps
from sparselab.training.step_hooks import StepHooks

if TYPE_CHECKING:
    from sparselab.network.orders import Orders
    from sparselab.network.outputs import Outputs
    from sparselab.network.report import PermutationReport

_log = logging.getLogger("sparselab")

__all__ = ["Sparsifier", "mask_buffer", "pruned_buffer"]


class Sparsifier:
    """Prunes a model to a pattern and keeps it pruned while attached optimizers train it.

    Masks live in the model as bool buffers under ASP's names (``__weight_mma_mask``), so they
    follow ``.to(device)`` and ``state_dict``; with ``keep_pruned`` the pruned values are kept too
    (``__weight_mma_pruned_p``), and come back before a mask is computed again. Nothing is pruned
    before ``compute()``, which starts the ``schedule``: ``"one_shot"``, ``"recompute,100"``,
    ``"gradual,100,500"``, ``"decay,0,500"``, ``"sr_ste,0.0002"``, ``"transposable"`` or an object.

    ``model`` may be wrapped (``torch.compile``, ``DistributedDataParallel``) or sharded, before
    or after ``compute()`` (FSDP2's ``fully_shard``, tensor parallelism): then every process has to
    make the same calls, ``frame`` and ``enabled`` included. ``pattern`` is a
    pattern, a mask calculator or a function ``weight -> mask``. ``include`` and ``exclude`` are
    names of weights or modules, ``*`` and ``?`` allowed. ``saliency`` is a name, a callable, a
    tensor, or a mapping from weight name to any of these. In place of it ``pruner`` (a name with
    options, or an object) chooses masks and may change the weights that stay; the ``statistics``
    that either needs are what ``sl.statistics.collect`` returns. ``rule`` is an eligibility rule
    (``"divisible"``, ``"asp"``), ``layer_types`` the module types to prune. ``custom`` has further
    types with the names of their weights, ``{MyLayer: ["weight"]}``, or with the dimensions of
    their input channels by name, ``{MyLayer: {"weight": 0}}``, which are 1 where none is given (of
    packed matrices -1 or -2: ``sparselab.core.weight_matrix``).

    Low-rank adapters (LoRA) are pruned only where ``include`` spells them out, and an embedding
    that is tied to a layer is pruned with it; either is said once in the log (``sparselab``).

    Given ``example_inputs``, what the model takes, a trace tells the input channels of packed
    parameters of modules that are not known, and channels are permuted before the first masks are
    computed, by the strategy ``permutation`` (``None``: never); ``permutation_report`` says what
    that did. ``example_inputs``, a list of several included, ``outputs`` and ``unreached`` are as in
    ``sl.permute``. The state of attached optimizers and scores given as ``saliency`` move along; other
    copies of the weights (an EMA) must be made afterwards. ``orders`` are those of ``sl.permute``:
    ``"free"``; ``"gathered"``, where layers may re-index their inputs; or ``"own"``, which needs no
    ``example_inputs``: nothing moves, and masks are chosen in an order of each weight's own. That is
    a limit; no kernel runs such masks. A mapping from weight name to its own order, ``report.own``,
    has been searched already.

    ``copy.deepcopy((model, optimizer, sparsifier))``, or a pickle of the three, goes on masking as
    the original does. A copy of model and optimizer alone trains dense: nothing keeps its masks.

    ``save_pretrained`` of a ``transformers`` model writes the plain model, without masks. Of any
    other state that was saved under masks ``sl.finalized(state)`` makes a plain model's.

    Work that takes longer than two seconds shows a bar, if ``progress``.

    Deterministic. Raises ``ValueError`` for unknown names and for a model that has masks already.

    >>> model = nn.Linear(16, 8)
    >>> sparsifier = Sparsifier(model, "2:4")
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier.attach(optimizer)
    >>> sparsifier.compute()
    >>> model(torch.randn(2, 16)).sum().backward(); optimizer.step()
    >>> int(model.weight.count_nonzero())
    64
    """

    @instead(strategy=PERMUTATION)
    def __init__(
        self,
        model: nn.Module,
        pattern: AnyPattern | Callable[[Tensor], Tensor] = "2:4",
        *,
        saliency: ModelSaliency = "magnitude",
        pruner: str | Pruner | None = None,
        statistics: Statistics | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        schedule: str | Schedule = "one_shot",
        keep_pruned: bool = False,
        permutation: str | Strategy | None = "auto",
        example_inputs: Any = None,
        rule: str = "divisible",
        layer_types: Sequence[type[nn.Module]] | None = None,
        custom: Custom | None = None,
        outputs: Outputs | None = None,
        unreached: str = "refuse",
        progress: bool = True,
        orders: str | Orders | Mapping[str, ChannelOrder] = "free",
    ) -> None:
        self.model = unwrap(as_eager(model, "Sparsifier"))
        self.schedule = as_schedule(schedule)
        choice = Choice.of(pattern, saliency, pruner, statistics)
        self.schedule.check(choice.calculator)
        self.permutation = _strategy(permutation)
        found = dict(orders) if isinstance(orders, Mapping) else {}
        self.orders = _kind_of("free" if isinstance(orders, Mapping) else orders, permutation)
        self.example_inputs = example_inputs
        self.outputs, self.unreached = outputs, unreached
        _require_reach(outputs, unreached)
        self.permutation_report: PermutationReport | None = None
        self._not_permuted = ""
        self.step: int | None = None
        types = None if layer_types is None else tuple(layer_types)
        traced = packed_by_trace(self.model, example_inputs, custom)
        self._choose = Selection(Names.of(include, exclude), types, custom, rule, traced)
        chosen = self._choose(self.model, choice.calculator)
        self._reasons = {name: reason for name, (_, reason) in chosen.items()}
        layers = [layer for layer, reason in chosen.values() if reason is None and isinstance(layer, LayerWeight)]
        say_what_was_chosen(chosen)
        keep_pruned = keep_pruned or self.schedule.keep_pruned
        self.weights = MaskedWeights(layers, choice, keep_pruned, before_first=self._permute, progress=progress)
        if found:
            self.weights.choose_in(found)
        self.weights.add_buffers()
        leave_out(self.model, self.weights.buffer_names())
        self._hooks = StepHooks(self._after_step, self._before_step, first=True)
        self._outer_hooks = StepHooks(self._after_outer_step, self._before_outer_step, first=True)
        self._attached: list[Any] = []  # as they were given: those that wrap others too
        self._copies = SecondCopies()
        self._newly_attached = False

    # ----------------------------------------------------------------------------------------------------------- state

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of every sparse weight by name (the buffers themselves, not copies)."""
        return self.weights.masks

    @property
    def keep_pruned(self) -> bool:
        """Whether pruned values are kept."""
        return self.weights.keep_pruned

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers that are attached; the first is the clock of the schedule.

        Of one that wraps another, that is the one inside, whose steps move the weights.
        """
        return self._hooks.optimizers

    @property
    def enabled(self) -> bool:
        """Whether every sparse weight has a mask and is zero where it says so. Looks at the weights themselves.

        True after loading the checkpoint of a pruned model; false while weights fade or grow, after a step that failed
        half-way, and when a layer with a mask is no longer in the model (replaced by a quantised one, say).
        """
        reshard(self.model)
        modules = {id(module) for module in self.model.modules()}
        return self.weights.all_pruned() and all(id(layer.module) in modules for layer in self.weights.layers)

    @property
    def frame(self) -> SparsifierFrame:
        """One row per weight: ``layer, shape, eligible, reason, density, retained_percent, permutation, note``.

        Weights are the floating-point parameters of two or more dimensions. ``density`` is the
        share of one that is not zero now (NaN where PyTorch cannot count them: not loaded,
        offloaded, quantised, float8), ``retained_percent`` the
        share of its magnitude that the mask kept when it was computed (100 without a mask, NaN
        where that was in another process). ``permutation`` says what became of its input channels
        when the first masks were computed: ``permuted``, or why not (empty before that, and for
        masks that came with a checkpoint). ``note`` says what was decided for an eligible one and
        may surprise: how the input channels of packed experts are known, that an embedding is tied.
        ``frame.attrs["pattern"]`` is what the masks are of. Made anew each time; ``frame()`` is the same.
        """
        reshard(self.model)
        orders = self._orders()
        rows = []
        for layer in self._choose.weights(self.model):
            reason = self._reasons.get(layer.name, "added after the Sparsifier was made")
            order = orders.get(layer.name, self._not_permuted) if reason is None else ""
            rows.append(row_of(layer, reason, self._retained(layer.name), order))
        return SparsifierFrame.of(rows, str(self.weights.choice))

    def _retained(self, name: str) -> float:
        """The share of a weight's magnitude that was kept when its mask was computed, where that is known."""
        unknown = self.weights.any_masked() and self._reasons.get(name) is None
        return self.weights.shares.get(name, float("nan") if unknown else 1.0)

    def __repr__(self) -> str:
        weights, schedule = len(self.weights.layers), repr(self.schedule)
        state = self.weights.state.name.lower()
        return (
            f"Sparsifier({type(self.model).__name__}, '{self.weights.choice}', {weights} weights, {state}, {schedule})"
        )

    def describe(self) -> dict[str, Any]:
        """What makes this run another than one with the same recipe: pattern, schedule and layers, as plain text."""
        return {
            "pattern": str(self.weights.choice),
            "schedule": repr(self.schedule),
            "layers": sorted(self.masks),
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is, and what was permuted. The masks are in the model's own ``state_dict``; save both, and
        the optimizer's."""
        self._ready()
        self.weights.settle()
        return {"step": self.step, **self.weights.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, whatever state this one is in; ``ValueError`` for anything else.

        The ``saliency`` that the Sparsifier was made with is that of the dense model; it is moved as the weights were.
        """
        missing = {"step", "shares"} - set(state)
        if missing or not {"state", "fading"} & set(state):  # ``fading``: how older ones put it
            raise ValueError(
                f"not the state of a Sparsifier: {sorted(missing or {'state'})} missing from {sorted(state)}"
            )
        self.weights.load_state_dict(state)
        self.step = state["step"]

    # --------------------------------------------------------------------------------------------------------- actions

    def compute(self) -> None:
        """Start the schedule; for most, that computes masks from the weights as they are and prunes by them.

        Called again, it computes new masks now; kept pruned values return first. All masks are
        computed before the first weight changes, so an error leaves the model as it was. Raises
        ``ValueError`` naming the layer for weights that are not finite or not as their masks are,
        where no weight is there yet (lazy layers, the meta device), and for a model that FSDP1 has
        flattened; and ``RuntimeError`` when the model is pruned already and the pruned values were
        not kept.
        """
        self.weights.require_buffers()
        self._require_weights()
        self.weights.settle()
        if not self.keep_pruned and self.weights.any_masked():
            raise RuntimeError(
                "masks are computed already and the pruned values are gone, so a new mask could only be the old one; "
                "use keep_pruned=True (ASP: allow_recompute_mask=True) to recompute"
            )
        if self.step is None:
            self.schedule.begin(self.weights)
            self.step = 0
        else:
            self.weights.compute()
        self._prune_copies()

    def restore(self) -> None:
        """Bring the pruned values back, turn masks off (all ones) and stop the schedule.

        ``compute()`` starts it again. Raises ``RuntimeError`` unless pruned values are kept.
        """
        if not self.keep_pruned:
            raise RuntimeError("pruned values were not kept: use keep_pruned=True (ASP: allow_recompute_mask=True)")
        self._ready()
        self.weights.settle()
        self.weights.unmask()
        self._prune_copies()
        self.step = None

    def attach(self, optimizer: Optimizer) -> None:
        """Keep masks through ``optimizer``'s steps: gradients are masked before a step, weights after it.

        Uses PyTorch's step hooks, so any optimizer will do; a closure's gradients are masked each
        time it is called. One that wraps another (accelerate's, Lightning's, Lookahead) is looked
        into, and a second copy of the weights that it keeps is pruned too. The first optimizer
        attached, of those that still are, is the schedule's clock. Attaching twice changes nothing.
        Where weights are sharded (``DTensor``), masks are sharded alike here at the latest.

        Raises ``ValueError`` for an optimizer that moves other tensors than those of the model, and
        for a second one where the schedule lets the first move the dense weights. Weights that no
        attached optimizer moves are named in the log when the first step begins. ``ValueError`` too
        for weights that FSDP1 has flattened or that are not as their masks are, and for steps that
        no hook sees.
        """
        self.weights.require_buffers()
        refuse_flattened(self.model)
        require_steps(optimizer)
        self._ready()
        moving = innermost(optimizer)
        require_weights(optimizer, self.model, self.weights.layers)
        known = {id(each) for each in (*self.optimizers, *moving)}
        if self.schedule.straight_through and len(known) > 1:
            raise ValueError(
                f"{self.schedule} works with one optimizer: give it all the parameters, in groups if need be"
            )
        self.weights.lay_out()
        for each in moving:
            self._hooks.add(each)
        for level in levels(optimizer):
            if takes_hooks(level) and id(level) not in known:
                self._outer_hooks.add(level)
        if not any(each is optimizer for each in self._attached):
            self._attached.append(optimizer)
        self._newly_attached = True
        self._prune_copies()

    def detach(self, optimizer: Optimizer) -> None:
        """Release ``optimizer``, and those inside it, whose steps no longer keep the masks; the masks stay.

        Does nothing if it is not attached.
        """
        for level in levels(optimizer):
            self._hooks.remove(level)
            self._outer_hooks.remove(level)
            self._attached = [each for each in self._attached if each is not level]

    def apply_to(self, copy: nn.Module) -> None:
        """Prune another copy of the model, such as its exponential moving average, by the masks of this moment.

        Raises ``ValueError``, and changes nothing, when the copy lacks a weight or has it in another shape.
        """
        copy = unwrap(as_eager(copy, "apply_to"))
        reshard(copy)
        parameters = dict(copy.named_parameters(remove_duplicate=False))
        for name, mask in self.masks.items():
            if name not in parameters or shape_of(parameters[name]) != mask.shape:
                raise ValueError(f"not a copy of the model: it has no {name!r} of shape {tuple(mask.shape)}")
            reason = why_unreadable(parameters[name]) or why_no_arithmetic(parameters[name])
            if reason is not None:
                raise ValueError(f"{name!r} of the copy cannot be pruned: it is {reason}")
        with torch.no_grad():
            for name, mask in self.masks.items():
                weight = parameters[name]
                local(weight).mul_(local(laid_out_like(mask, weight)).to(weight.device))

    def finalize(self) -> None:
        """Leave a plain model: zeros stay in the weights, optimizer hooks and mask buffers go."""
        self._ready()
        if self.weights.state is MaskState.DENSE and self.weights.layers and not self.weights.any_masked():
            _log.warning("finalize(): compute() was never called, so nothing is pruned")
        self.weights.apply()
        self._prune_copies()
        self._hooks.clear()
        self._outer_hooks.clear()
        self._attached.clear()
        put_back(self.model, self.weights.buffer_names())
        self.weights.remove()

    def _ready(self) -> None:
        """The masked weights where an optimizer moves them; ``ValueError`` where they cannot be found there."""
        ready_for_masks(self.model, self.weights.layers)

    def _require_weights(self) -> None:
        """Raise ``ValueError`` where masks cannot be put on weights, or there are no weights yet to choose from."""
        refuse_flattened(self.model)
        self._ready()
        if not self.weights.layers:
            require_some_values(layer_weights(self.model, self._choose.custom))
            _log.warning("compute() has no weight to prune: the reasons are in the column `reason` of frame")

    def __getstate__(self) -> dict[str, Any]:
        # What only hands calls on need not be copied, and mostly cannot be.
        attached = {id(level): level for each in self._attached for level in lasting(each)}
        return {**self.__dict__, "_attached": list(attached.values())}

    # ----------------------------------------------------------------------------------------------------------- hooks

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._ready()
        self._say_what_is_not_moved()
        self.weights.begin_step(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._mask_gradients()
            return None
        masked = self._masking(closure)
        if len(args) > 1:
            return (args[0], masked, *args[2:]), kwargs
        return args, {**kwargs, "closure": masked}

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.step is not None and optimizer is self.optimizers[0]:
            self.step += 1
            self.schedule.after_step(self.weights, self.step)
        elif self.weights.state is not MaskState.FADING:
            self.weights.apply()
        self._prune_copies()
        self.weights.end_step()

    def _before_outer_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What an optimizer does with gradients before the one inside it steps sees masked ones too."""
        if not self.schedule.straight_through:
            self._mask_gradients()

    def _after_outer_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What an optimizer did to weights after the one inside it stepped is masked too."""
        if self.weights.state not in (MaskState.FADING, MaskState.RESTORED):
            self.weights.apply()
            self._prune_copies()

    def _prune_copies(self) -> None:
        self._copies.prune(self.weights, self._attached, straight_through=self.schedule.straight_through)

    def _say_what_is_not_moved(self) -> None:
        if self._newly_attached and (names := not_moved(self._attached, self.weights.layers)):
            _log.warning(
                "no attached optimizer moves %d of the %d masked weights (%s): if another one does, attach it too",
                len(names),
                len(self.weights.layers),
                reprlib.repr(names),
            )
        self._newly_attached = False

    def _masking(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(closure)
        def masked() -> Any:
            if self.weights.state is MaskState.RESTORED:  # by the evaluation before this one
                self.weights.apply()
            loss = closure()
            self._mask_gradients()
            return loss

        return masked

    def _mask_gradients(self) -> None:
        if self.step is not None:
            self.schedule.before_step(self.weights, self.step)
        else:
            self.weights.apply_to_gradients()

    # ----------------------------------------------------------------------------------------------------- permutation

    def _permute(self) -> None:
        """Permute the channels of the dense model, if there is something to trace it with."""
        choice = self.weights.choice
        if self.weights.permuted:  # before, by a call whose masks could not be computed
            return
        known = {layer.name for layer in layer_weights(self.model)}
        layers = [layer for layer in self.weights.layers if layer.name in known]
        pattern = None if choice.calculator is None else choice.calculator.searched_as
        self._not_permuted = self._why_not_permuted(choice, pattern)
        if self._not_permuted or pattern is None or self.permutation is None or not layers:
            return
        from sparselab.network.permuting import permute

        require_finite(layers, "a mask")  # before anything moves: their masks would be refused afterwards
        with self.weights.without_buffers():
            self.permutation_report = permute(
                self.model,
                self.example_inputs,
                pattern,
                strategy=self.permutation,
                saliency=choice.orders_by,
                optimizer=self._attached,
                include=[layer.name for layer in layers],
                outputs=self.outputs,
                unreached=self.unreached,
                orders=self.orders,
                progress=self.weights.progress,
            )
        self.weights.follow(self.permutation_report.plan)
        if self.permutation_report.own:
            self.weights.choose_in(self.permutation_report.own)

    def _why_not_permuted(self, choice: Choice, pattern: str | None) -> str:
        """Why no order is to be searched at all, or nothing."""
        if self.permutation is None:
            return "permutation=None"
        if self.example_inputs is None and self.orders.traces:
            return "no example_inputs to trace the model with"
        return "" if pattern is not None else f"no order is searched for masks by {choice}"

    def _orders(self) -> dict[str, str]:
        """What became of the input channels of every weight that the permutation knew."""
        if self.permutation_report is None:
            return {}
        rows = self.permutation_report.weights
        said = [f"{status}: {reason}" if reason else status for status, reason in zip(rows["status"], rows["reason"])]
        return dict(zip(rows["weight"], said))


def _require_reach(outputs: Outputs | None, unreached: str) -> None:
    """Raise ``ValueError`` at once for what neither of them can be."""
    from sparselab.network.reach import Reach

    Reach.of(outputs, unreached)


def _strategy(permutation: str | Strategy | None) -> Strategy | None:
    """The strategy, resolved at once so that a misspelt name is an error before any work is done."""
    if permutation is None:
        return None
    from sparselab.permutation.coercion import as_strategy

    return as_strategy(permutation)


def _kind_of(orders: str | Orders, permutation: str | Strategy | None) -> Orders:
    """The kind of orders, resolved at once; ``ValueError`` for one that is to be searched by no strategy."""
    from sparselab.network.orders import as_orders, require_strategy

    kind = as_orders(orders)
    require_strategy(kind, permutation)
    return kind
