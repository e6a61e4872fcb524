"""A plan: which tensors of a model are put in which order; to save, apply to copies and invert."""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparselab.core.entries import mask_name, pruned_name
from sparselab.core.interrupts import interrupted_afterwards
from sparselab.core.layers import LayerWeight
from sparselab.core.models import as_eager, unwrap
from sparselab.core.moves import Indices, Move, moved
from sparselab.core.optimizers import Keepers, levels
from sparselab.core.paths import as_path
from sparselab.core.readable import why_unreadable
from sparselab.core.sharding import laid_out_like, local, reshard, whole
from sparselab.core.writing import why_not_written
from sparselab.network.analysis import Analysis, place_of
from sparselab.network.axes import Leaf, leaves_of
from sparselab.network.constants import constants_of, keep_moved_constants
from sparselab.network.free_axes import Axis, Orders, order_of, spans
from sparselab.network.gathers import Gather, forget_compiled, gathered_layers, re_index

_log = logging.getLogger("sparselab")

FORMAT, VERSION = "sparselab.plan", 2
_WITHOUT_GATHERS = 1  # the version of a plan that moves tensors only, which earlier releases read too

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Plan:
    """What is moved in a model, by the names of its parameters and buffers.

    It needs neither the graph nor the model that it was made from. ``apply`` moves a model (and an
    optimizer's state) in place, ``inverse`` moves it back. Applying a plan and its inverse restores
    every tensor bit for bit. ``gathers`` are layers whose inputs are re-indexed from then on.
    """

    moves: tuple[Move, ...] = ()
    gathers: tuple[Gather, ...] = ()

    @classmethod
    def from_orders(cls, analysis: Analysis, orders: Orders) -> Plan:
        """The moves that the orders of some axes mean for the tensors of a model."""
        axis_of: dict[Leaf, Axis] = {leaf: axis for axis in orders for leaf in axis.leaves}
        moves: list[Move] = []
        for member in analysis.members:
            if 0 in member.shape:  # registers of a model that has none of them
                continue
            for span in spans(member.dims, axis_of):
                dims = member.dims[span.start : span.stop]
                if not any(leaf in axis_of for dim in dims for leaf in leaves_of(dim)):
                    continue
                order = order_of(dims, orders, axis_of)
                if (order != np.arange(len(order))).any():
                    moves.append(Move(member.names, member.shape, span.start, span.stop - 1, order))
        return cls(tuple(moves))

    def __len__(self) -> int:
        return len(self.moves)

    def __repr__(self) -> str:
        names = [name for move in self.moves for name in move.names[:1]]
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return f"Plan({len(names)} moves{': ' if names else ''}{some})"

    def inverse(self) -> Plan:
        """The plan that undoes this one."""
        gathers = tuple(gather.inverse() for gather in reversed(self.gathers))
        return Plan(tuple(move.inverse() for move in reversed(self.moves)), gathers)

    def apply(self, model: nn.Module, optimizer: Optimizer | Iterable[Optimizer] | None = None) -> None:
        """Move every tensor of ``model`` in place, with its gradient and its state in optimizers.

        ``optimizer`` is one, or several of them.

        State that has the tensor's shape moves, or that broadcasts to it (the sums of Adafactor),
        also that of an optimizer inside another and what it keeps for each parameter in attributes
        of its own. Any other stays as it is, so an optimizer that lays parameters out anew (LBFGS,
        Shampoo) is best started again.

        A masked model is moved with its masks and kept pruned values, and the scores and statistics
        that its Sparsifier holds follow. Outputs stay the same, but weights are N:M only in the order
        for which masks were computed; the log says so.

        The inputs of ``gathers`` are re-indexed by a hook and a buffer of their layer, which go
        wherever the model goes. Models that ``torch.compile`` has compiled are traced anew then.

        Tensors that are sharded (``DTensor``) are gathered one after the other, so every process
        has to call this.

        ``model`` may be wrapped (``torch.compile``, ``DataParallel``, ``AveragedModel``). Parameters stay the same
        objects. Raises ``ValueError``, and changes nothing, when a name is missing, a shape differs,
        a tensor is quantised or elsewhere, or ``optimizer`` is not one; an interruption waits until all is moved, any other failure
        puts back what was moved.
        """
        inner = unwrap(as_eager(model, "Plan.apply"))
        reshard(inner)
        masked = self._masked(inner)
        targets = self._targets(inner, as_optimizers(optimizer))
        gathered = gathered_layers(inner, self.gathers)
        done: list[tuple[Move, Tensor]] = []
        re_indexed: list[tuple[Gather, LayerWeight]] = []
        with torch.no_grad(), interrupted_afterwards():
            try:
                for move, tensor in targets:
                    _move(tensor, move)
                    done.append((move, tensor))
                for gather, layer in gathered:
                    re_index(layer, gather)
                    re_indexed.append((gather, layer))
            except BaseException:
                for gather, layer in reversed(re_indexed):
                    re_index(layer, gather.inverse())
                for move, tensor in reversed(done):
                    _move(tensor, move.inverse())
                raise
            for move, module, attribute in masked:
                module.__dict__.setdefault(moves_name(attribute), []).append(move)
        if gathered:
            forget_compiled()
        _say_what_moved(masked)
        _say_what_is_kept(keep_moved_constants(inner, self.moves))

    def moved(self, held: Mapping[str, T]) -> dict[str, T]:
        """What fits a model to which this plan was applied, of what was ``held`` by weight name before.

        Scores move as their weights did, and so do statistics and saliencies that hold some
        (``sparselab.core.moves.Movable``); a name or another callable sees the weight itself, and
        stays. Raises ``ValueError`` when a tensor has not its weight's shape.

        >>> from sparselab.saliency import Wanda
        >>> plan = Plan((Move(("weight",), (1, 2), 1, 1, np.array([1, 0])),))
        >>> plan.moved({"weight": Wanda(torch.tensor([3.0, 4.0]))})["weight"].norms
        tensor([[4., 3.]])
        """
        moves: dict[str, list[Move]] = {}
        for move in self.moves:
            for name in move.names:
                moves.setdefault(name, []).append(move)
        return {name: moved(each, moves.get(name, ())) for name, each in held.items()}

    def _targets(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> list[tuple[Move, Tensor]]:
        """Every tensor to move, in order: those of the model, their gradients and states.

        A tensor with several names is there once.
        """
        tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        tensors.update(model.named_buffers(remove_duplicate=False))
        tensors.update(constants_of(model))
        moves_of: dict[Any, tuple[dict[int, Tensor], list[Move]]] = {}
        for move in self.moves:
            for name in move.names:
                if name not in tensors:
                    raise ValueError(f"the plan moves {name!r}, which {type(model).__name__} does not have")
                tensor = tensors[name]
                if not nn.parameter.is_lazy(tensor) and tuple(tensor.shape) != move.shape:
                    raise ValueError(f"the plan moves {name!r} of shape {move.shape}; here it is {tuple(tensor.shape)}")
                if (reason := why_unreadable(tensor)) is not None:
                    raise ValueError(f"the plan moves {name!r}, which is {reason}")
                alike, planned = moves_of.setdefault(place_of(tensor), ({}, []))
                alike[id(tensor)] = tensor
                if move not in planned:
                    planned.append(move)
        keepers = Keepers(optimizers)
        targets: list[tuple[Move, Tensor]] = []
        for alike, planned in moves_of.values():
            if len({move.names for move in planned}) > 1:
                raise ValueError(
                    f"{planned[0].names[0]!r} and {planned[-1].names[0]!r} are one tensor in this model, "
                    "but were two when the plan was made"
                )
            companions = [*alike.values()][:1]  # several Parameters may be one place in memory, each with a state
            companions += [tensor.grad for tensor in alike.values() if tensor.grad is not None]
            kept = {id(each.tensor): each.tensor for tensor in alike.values() for each in keepers.of(tensor)}
            companions += kept.values()
            names = [name for move in planned for name in move.names]
            companions += {id(mask): mask for name in names for mask in _masks(name, tensors)}.values()
            targets += [(move, each) for each in companions for move in planned if move.fits(each)]
        for move, tensor in targets:
            if (reason := why_not_written(tensor)) is not None:
                raise ValueError(f"the plan moves {move.names[0]!r}, which stays as it is: {reason}")
        return targets

    def _masked(self, model: nn.Module) -> list[tuple[Move, nn.Module, str]]:
        """Every move of a masked weight, with the module and the attribute that hold it."""
        modules = dict(model.named_modules(remove_duplicate=False))
        found: dict[tuple[int, str, int], tuple[Move, nn.Module, str]] = {}
        for number, move in enumerate(self.moves):
            for name in move.names:
                prefix, _, attribute = name.rpartition(".")
                if prefix in modules and mask_name(attribute) in modules[prefix]._buffers:
                    found[id(modules[prefix]), attribute, number] = (move, modules[prefix], attribute)
        return list(found.values())

    # ------------------------------------------------------------------------------------------------------ JSON

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts; equal orders are stored once."""
        numbers: dict[bytes, int] = {}
        table: list[list[int]] = []

        def number_of(order: Indices) -> int:
            key = order.tobytes()
            if key not in numbers:
                numbers[key] = len(table)
                table.append(order.tolist())
            return numbers[key]

        moves = [
            {
                "tensors": list(move.names),
                "shape": list(move.shape),
                "dims": [move.first, move.last],
                "order": number_of(move.order),
            }
            for move in self.moves
        ]
        found = {"format": FORMAT, "version": _WITHOUT_GATHERS, "orders": table, "moves": moves}
        if not self.gathers:
            return found
        gathered = [{"weight": gather.name, "order": number_of(gather.order)} for gather in self.gathers]
        return {**found, "version": VERSION, "gathers": gathered}

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """The plan that ``to_json`` wrote.

        ``ValueError`` for anything else, and for a version that this release cannot read.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a plan: expected an object with format {FORMAT!r}")
        if data.get("version") not in (_WITHOUT_GATHERS, VERSION):
            raise ValueError(f"a plan of version {data.get('version')!r}; this release reads versions 1 to {VERSION}")
        try:
            orders = [_as_order(order) for order in data["orders"]]
            moves = [_as_move(entry, orders) for entry in data["moves"]]
            found = [Gather(str(entry["weight"]), orders[entry["order"]]) for entry in data.get("gathers", ())]
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"a damaged plan: {type(error).__name__} {error}") from error
        return cls(tuple(moves), tuple(found))

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        as_path(path, "Plan.save").write_text(
            json.dumps(self.to_json(), separators=(",", ":")) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; ``ValueError`` when the file holds none."""
        try:
            data = json.loads(as_path(path, "Plan.load").read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a plan: {error}") from error
        return cls.from_json(data)


def moves_name(attribute: str) -> str:
    """The attribute beside a masked weight that lists its moves which its Sparsifier has yet to follow."""
    return f"__{attribute}_mma_moves"


def _say_what_moved(masked: Iterable[tuple[Move, nn.Module, str]]) -> None:
    """Log, once for a plan, that masks which take something are in another order now."""
    names = {
        move.names[0]: None
        for move, module, attribute in masked
        if not bool(getattr(module, mask_name(attribute)).all())
    }
    if names:
        _log.warning(
            "the masks of %d weights (%s) moved along with them: outputs are the same, but the weights are N:M only "
            "in the order for which their masks were computed. Apply the inverse of this plan before they are checked "
            "or given to a kernel, or compute masks anew",
            len(names),
            reprlib.repr(list(names)),
        )


def _say_what_is_kept(names: Sequence[str]) -> None:
    """Log that constants of the model have moved, which a fresh one has in the old order."""
    if names:
        _log.warning(
            "%s moved too, and is in the state dict from now on: it is computed when the model is built, so apply the "
            "plan to a fresh model before you load the state dict into it",
            ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        )


def _masks(name: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The mask of the weight ``name`` and the values which it took, as far as the model has them."""
    prefix, dot, attribute = name.rpartition(".")
    names = (f"{prefix}{dot}{called(attribute)}" for called in (mask_name, pruned_name))
    return [tensors[each] for each in names if each in tensors]


def as_optimizers(optimizer: Optimizer | Iterable[Optimizer] | None) -> tuple[Optimizer, ...]:
    """The optimizers whose state moves along, each once.

    Raises ``ValueError`` for anything that keeps no state of parameters.
    """
    if optimizer is None:
        return ()
    given = tuple(optimizer) if isinstance(optimizer, Iterable) else (optimizer,)
    if not all(any(isinstance(getattr(level, "state", None), Mapping) for level in levels(each)) for each in given):
        raise ValueError(
            "optimizer takes a torch.optim.Optimizer, or several of them in a list, whose state "
            f"moves along, got {reprlib.repr(optimizer)}"
        )
    return tuple({id(each): each for each in given}.values())


def _move(tensor: Tensor, move: Move) -> None:
    """Move ``tensor`` in place; the part that this process holds, where it is sharded."""
    local(tensor).copy_(local(laid_out_like(move(whole(tensor)), tensor)))


def _as_order(values: Sequence[int]) -> Indices:
    order = np.asarray(values, np.int64)
    if order.ndim != 1 or not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ValueError("a damaged plan: an order is not a permutation")
    return order


def _as_move(entry: dict[str, Any], orders: list[Indices]) -> Move:
    shape, (first, last) = tuple(map(int, entry["shape"])), entry["dims"]
    move = Move(tuple(map(str, entry["tensors"])), shape, int(first), int(last), orders[entry["order"]])
    if not 0 <= move.first <= move.last < len(shape) or np.prod(shape[move.first : move.last + 1]) != len(move.order):
        raise ValueError(f"a damaged plan: an order of {len(move.order)} for dimensions {entry['dims']} of {shape}")
    return move
