"""The norms of what every layer of a model is given, from one pass of hooks over data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparselab.core.models import evaluating, to_device, unwrap
from sparselab.core.registry import unknown_name
from sparselab.core.weight_matrix import channel_dim_of
from sparselab.saliency.names import SALIENCIES, from_statistics, needs
from sparselab.saliency.ria import Ria
from sparselab.saliency.scoring import Saliency
from sparselab.saliency.wanda import Wanda
from sparselab.statistics.input_norms import InputNorms

Forward = Callable[[nn.Module, Any], object]


@dataclass(frozen=True, eq=False)
class ActivationNorms:
    """What the layers of a model were given: ``inputs`` by weight name. Every saliency from data is made of it.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> activations = collect_activations(model, [torch.randn(16, 4)])
    >>> sorted(activations.saliency("ria"))
    ['0.weight', '2.weight']
    """

    inputs: Mapping[str, InputNorms]

    def wanda(self) -> dict[str, Wanda]:
        """The Wanda saliency of every weight."""
        return {name: Wanda.of(seen) for name, seen in self.inputs.items()}

    def ria(self, power: float = 0.5) -> dict[str, Ria]:
        """The relative importance and activations of every weight; 0.5 is the paper's ``power``."""
        return {name: Ria.of(seen, power=power) for name, seen in self.inputs.items()}

    def saliency(self, name: str) -> Mapping[str, Saliency]:
        """The saliency called ``"wanda"``, ``"ria"``, ``"ria,power=0.3"``; ``ValueError`` for names that norms do not give."""
        plain = SALIENCIES.split(name)[0]
        if plain not in SALIENCIES or needs(plain) is not InputNorms:
            given = [other for other in SALIENCIES.names() if needs(other) is InputNorms]
            raise unknown_name("saliency from activations", plain, given)
        return from_statistics(name, {InputNorms: self.inputs})


def collect_activations(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
) -> ActivationNorms:
    """One pass of ``model`` over ``batches``: the norms of what each Linear, convolution and attention layer is given.

    A batch is what the model takes (a tensor, a tuple of positional or a dict of keyword arguments), or what
    ``forward(model, batch)`` takes; its tensors are moved to ``device``, if given. Norms are accumulated in float64. The
    model, which may be wrapped, is in evaluation mode meanwhile and as before afterwards. A weight that several modules
    share has the norms of all their inputs, under its first name. Where a process group is initialised every rank has to
    call this, and all get the norms over the batches of all ranks. Deterministic. Raises ``ValueError`` when there is no
    batch.
    """
    model = unwrap(model)
    squares: dict[str, _Squares] = {}
    seen = 0
    with evaluating(model), torch.no_grad(), _hooks(model, squares):
        for batch in batches:
            (forward or _call)(model, to_device(batch, device))
            seen += 1
    seen, squares = _over_ranks(seen, squares)
    if not seen:
        raise ValueError("no batch to collect inputs from: the iterable was empty")
    return ActivationNorms(
        {name: InputNorms(found.total.sqrt(), found.channel_dim, found.groups) for name, found in squares.items()}
    )


def collect_wanda(
    model: nn.Module, batches: Iterable[Any], *, device: torch.device | str | None = None
) -> dict[str, Wanda]:
    """``collect_activations(model, batches).wanda()``: the Wanda saliency of every layer reached, by weight name."""
    return collect_activations(model, batches, device=device).wanda()


# ------------------------------------------------------------------------------------------------------------- calling


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


# --------------------------------------------------------------------------------------------------------------- hooks


@dataclass
class _Squares:
    """The squared norms so far, shaped to broadcast against the weight."""

    total: Tensor
    channel_dim: int
    groups: int

    def __add__(self, other: _Squares) -> _Squares:
        return _Squares(self.total + other.total, self.channel_dim, self.groups)


@contextmanager
def _hooks(model: nn.Module, squares: dict[str, _Squares]) -> Iterator[None]:
    """While it lasts, every forward pass adds what the layers of ``model`` are given to ``squares``."""
    first_names: dict[int, str] = {}
    handles = []
    for prefix, module in model.named_modules():
        for own, weight in _weights(module):
            name = first_names.setdefault(id(weight), f"{prefix}.{own}" if prefix else own)
            hook = _Accumulator(squares, name, own, weight)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of ``module`` whose inputs its own call tells."""
    for own, weight in module.named_parameters(recurse=False):
        if channel_dim_of(module, own) is not None:
            yield own, weight
    if isinstance(module, nn.MultiheadAttention):  # which never calls the module that holds this one
        yield "out_proj.weight", module.out_proj.weight


@dataclass(frozen=True)
class _Accumulator:
    """The hook of one weight: ``own`` is its name in its module, ``name`` in the model."""

    squares: dict[str, _Squares]
    name: str
    own: str
    weight: Tensor

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = self._squared_norms(module, args, kwargs)
        known = self.squares.get(self.name)
        self.squares[self.name] = found if known is None else known + found

    def _squared_norms(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Squares:
        if isinstance(module, nn.MultiheadAttention):
            if self.own == "out_proj.weight":
                return _Squares(_channel_squares(_attended(module, args, kwargs), -1)[None], 1, 1)
            return _projected(self.own, self.weight, {**dict(zip(("query", "key", "value"), args)), **kwargs})
        inputs = args[0] if args else next(iter(kwargs.values()))
        channel_dim = cast("int", channel_dim_of(module, self.own))
        if self.weight.ndim == 2:  # Linear, and GPT-2's transposed one
            return _Squares(_channel_squares(inputs, -1).unsqueeze(1 - channel_dim), channel_dim, 1)
        return _convolved(inputs, self.weight, channel_dim, cast("int", module.groups))


class _WithoutHooks(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


def _attended(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What the output projection is given: the output of the same attention with the identity in its place."""
    weight, bias = module.out_proj.weight, module.out_proj.bias
    instead = {"module.out_proj.weight": torch.eye(len(weight), dtype=weight.dtype, device=weight.device)}
    if bias is not None:
        instead["module.out_proj.bias"] = torch.zeros_like(bias)
    return cast("Tensor", torch.func.functional_call(_WithoutHooks(module), instead, args, kwargs)[0])


def _projected(own: str, weight: Tensor, inputs: Mapping[str, Tensor]) -> _Squares:
    """Squared norms for a weight of attention, packed (one matrix each for query, key and value) or its own."""
    letters = {"in_proj_weight": "qkv", "q_proj_weight": "q", "k_proj_weight": "k", "v_proj_weight": "v"}[own]
    given = [inputs[{"q": "query", "k": "key", "v": "value"}[letter]] for letter in letters]
    if all(tensor is given[0] for tensor in given):
        total = _channel_squares(given[0], -1)[None]
    else:
        total = torch.cat([_channel_squares(tensor, -1).expand(len(weight) // len(given), -1) for tensor in given])
    return _Squares(total, 1, len(letters))


def _convolved(inputs: Tensor, weight: Tensor, channel_dim: int, groups: int) -> _Squares:
    """Squared norms for the weight of a convolution; where it is grouped, each output has those of its own group."""
    spatial = weight.ndim - 2
    total = _channel_squares(inputs, inputs.ndim - spatial - 1)
    if channel_dim == 0:
        return _Squares(total.reshape(-1, 1, *[1] * spatial), 0, groups)
    each = total.reshape(groups, 1, -1)
    if groups > 1:
        each = each.expand(-1, len(weight) // groups, -1)
    return _Squares(each.reshape(-1, weight.shape[1], *[1] * spatial), 1, groups)


def _channel_squares(inputs: Tensor, dim: int) -> Tensor:
    """The sum of squares over all dimensions but ``dim``, in float64."""
    squares = inputs.detach().double().square()
    others = [other for other in range(inputs.ndim) if other != dim % inputs.ndim]
    return squares.sum(others) if others else squares


def _over_ranks(seen: int, squares: dict[str, _Squares]) -> tuple[int, dict[str, _Squares]]:
    """The sums over all ranks, added in their order, so that every rank has the same bits; on the CPU."""
    own = {name: _Squares(found.total.cpu(), found.channel_dim, found.groups) for name, found in squares.items()}
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return seen, own
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (seen, own))
    sums: dict[str, _Squares] = {}
    for _, theirs in everyone:
        for name, found in theirs.items():
            sums[name] = sums[name] + found if name in sums else found
    return sum(count for count, _ in everyone), sums
