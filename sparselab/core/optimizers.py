"""Optimizers inside optimizers, and what each of them keeps for a parameter."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Lookup = Callable[[Tensor], Any]

MOMENTS = frozenset(
    {
        *("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"),
        *("square_avg", "acc_delta", "grad_avg", "sum", "prev", "step_size"),
    }
)
"""What the optimizers of torch call the moments that they keep for a parameter."""

_NO_COPIES = ("state", "param_groups", "defaults")


def levels(optimizer: Any) -> tuple[Any, ...]:
    """``optimizer`` and every optimizer inside it, each once, the outermost first.

    Inside are those that an optimizer holds in an attribute, of whatever name, or in a list or dict
    there, and that move some of the same parameters: what accelerate and Lightning hand out,
    Lookahead and SAM, containers of several, at any depth. A scheduler holds one too.
    """
    found: dict[int, Any] = {}
    waiting = [optimizer]
    while waiting:
        each = waiting.pop(0)
        if id(each) not in found:
            found[id(each)] = each
            waiting += _inside(each)
    return tuple(found.values())


def innermost(optimizer: Any) -> tuple[Optimizer, ...]:
    """The optimizers whose ``step`` moves the parameters when ``optimizer`` steps; mostly itself.

    Raises ``ValueError`` where there is none with PyTorch's step hooks.
    """
    found = tuple(_innermost(optimizer, set()))
    if found:
        return found
    if isinstance(optimizer, (list, tuple, Iterator)):
        raise ValueError("several optimizers in one argument: attach them one by one")
    raise ValueError(
        f"attach takes a torch.optim.Optimizer, or what holds one as .optimizer, got {reprlib.repr(optimizer)}. "
        "Masks are kept by the hooks around step(), so a class of your own has to extend "
        "torch.optim.Optimizer and call super().__init__"
    )


def lasting(optimizer: Any) -> tuple[Any, ...]:
    """The ``levels`` that step, or keep something for parameters which those inside them do not keep.

    What only hands calls on (accelerate's, Lightning's) is not among them.
    """
    found, known = [], set[int]()
    for level in reversed(levels(optimizer)):
        own = {id(held) for _, held, _ in _lookups(level)}
        if takes_hooks(level) or own - known:
            found.append(level)
        known |= own
    return tuple(reversed(found))


def takes_hooks(optimizer: Any) -> bool:
    """Whether PyTorch calls hooks around the steps of ``optimizer``.

    Wrappers that extend ``Optimizer`` without ``super().__init__`` have none, whatever they look
    like.
    """
    return (
        isinstance(optimizer, Optimizer)
        and hasattr(optimizer, "_optimizer_step_post_hooks")
        and bool(getattr(type(optimizer).step, "hooked", False))
    )


def parameters_of(optimizer: Any) -> list[Tensor]:
    """The parameters in the groups of ``optimizer`` itself; none where it has no groups."""
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, Sequence):
        return []
    return [parameter for group in groups if isinstance(group, Mapping) for parameter in group.get("params", ())]


def _innermost(optimizer: Any, seen: set[int]) -> Iterator[Optimizer]:
    seen.add(id(optimizer))
    found = [leaf for each in _inside(optimizer) if id(each) not in seen for leaf in _innermost(each, seen)]
    yield from found or ([optimizer] if takes_hooks(optimizer) else [])


def _inside(optimizer: Any) -> list[Any]:
    """The optimizers that ``optimizer`` holds and that move some of its parameters."""
    held = [value for name, value in _attributes(optimizer).items() if name not in _NO_COPIES]
    with contextlib.suppress(Exception):  # a property may raise anything
        held.append(optimizer.optimizer)
    each = [entry for value in held for entry in _entries(value)]
    own = {id(parameter) for parameter in parameters_of(optimizer)}
    return [
        entry
        for entry in each
        if _is_optimizer(entry) and (not own or own & {id(parameter) for parameter in parameters_of(entry)})
    ]


def _attributes(optimizer: Any) -> dict[str, Any]:
    found = getattr(optimizer, "__dict__", {})
    return dict(found) if isinstance(found, Mapping) and not isinstance(optimizer, type) else {}


def _entries(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    return list(value.values()) if isinstance(value, dict) else [value]


def _is_optimizer(value: Any) -> bool:
    if isinstance(value, (type, Tensor)):
        return False
    return isinstance(value, Optimizer) or (
        isinstance(getattr(value, "param_groups", None), Sequence) and callable(getattr(value, "step", None))
    )


@dataclass(frozen=True, eq=False)
class Kept:
    """A tensor that the optimizer of class ``owner`` keeps for a parameter, by the ``name`` it has there."""

    owner: str
    name: str
    tensor: Tensor


class Keepers:
    """What some optimizers, and those inside them, keep for each parameter.

    That is their state, and what stands parameter by parameter in other attributes: dicts by
    parameter (or its ``id``), and lists as long as the list of parameters or shaped like the groups,
    such as the ``slow_weights`` of some Lookaheads.
    """

    def __init__(self, optimizers: Iterable[Any]) -> None:
        every = {id(level): level for each in optimizers for level in levels(each)}
        self.owners = tuple(type(level).__name__ for level in every.values())
        self._lookups = [
            (type(level).__name__, name, lookup) for level in every.values() for name, _, lookup in _lookups(level)
        ]

    def of(self, parameter: Tensor) -> list[Kept]:
        """Every tensor that is kept for ``parameter``, once."""
        found: dict[int, Kept] = {}
        for owner, name, lookup in self._lookups:
            value = lookup(parameter)
            entries = value.items() if isinstance(value, Mapping) else [(name, value)]
            for key, entry in entries:
                if isinstance(entry, Tensor) and entry is not parameter:
                    # By identity: an optimizer that wraps another shows the state of that one.
                    found.setdefault(id(entry), Kept(owner, str(key), entry))
        return list(found.values())


def _lookups(optimizer: Any) -> Iterator[tuple[str, Any, Lookup]]:
    """What finds the values for a parameter in the state of ``optimizer`` and in its other attributes.

    With the name of each, and with what holds the values.
    """
    state = getattr(optimizer, "state", None)
    if isinstance(state, Mapping):
        yield "state", state, state.get
    for name, value in _attributes(optimizer).items():
        if name in _NO_COPIES or value is state or not isinstance(value, (dict, list, tuple)) or not value:
            continue
        if isinstance(value, dict) and (lookup := _in_dict(value)) is not None:
            yield name, value, lookup
        if not isinstance(value, dict) and (placed := _in_list(value, optimizer)) is not None:
            yield name, value, placed


def _in_dict(values: dict[Any, Any]) -> Lookup | None:
    first = next(iter(values))
    if isinstance(first, Tensor):
        return values.get
    held = next(iter(values.values()))
    if isinstance(first, int) and isinstance(held, (Tensor, Mapping)):
        return lambda parameter: values.get(id(parameter))
    return None


def _in_list(values: Sequence[Any], optimizer: Any) -> Lookup | None:
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, Sequence):
        return None
    if all(isinstance(value, (list, tuple)) for value in values):
        if [len(value) for value in values] != [len(group["params"]) for group in groups]:
            return None
        values = [entry for value in values for entry in value]
    parameters = parameters_of(optimizer)
    if len(values) != len(parameters) or not all(isinstance(value, (Tensor, Mapping)) for value in values):
        return None
    beside = {id(parameter): value for parameter, value in zip(parameters, values)}
    return lambda parameter: beside.get(id(parameter))
