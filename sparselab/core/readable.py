"""Weights whose numbers cannot be read where they are, and for each the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn

from sparselab.core.layers import ModelWeight, is_wrapped
from sparselab.core.models import CannotRunError
from sparselab.core.sharding import is_flattened, is_sharded
from sparselab.core.writing import why_not_plain

FLATTENED = (
    "flattened by FSDP1 (FullyShardedDataParallel), which no weight can be found in: shard by "
    "torch.distributed.fsdp.fully_shard (FSDP2) instead, before or after compute()"
)


def why_unreadable(weight: Tensor, module: nn.Module | None = None) -> str | None:
    """Why the numbers of ``weight``, which may belong to ``module``, cannot be read, or ``None``.

    A sharded one (``DTensor``) can: ``sparselab.core.sharding.whole`` gathers it.

    >>> import torch
    >>> why_unreadable(torch.empty(4, 4, device="meta"))
    'on the meta device, without values: load its weights first'
    """
    if (reason := why_not_plain(weight)) is not None:
        return reason
    if is_flattened(weight):
        return FLATTENED
    if weight.is_meta:
        if module is not None and is_offloaded(module):
            return (
                "offloaded by accelerate, without values between its calls: prune before "
                "offloading, or load the model without it"
            )
        return "on the meta device, without values: load its weights first"
    if is_wrapped(weight) and not is_sharded(weight):
        return f"held as a {type(weight).__name__} (quantised or sharded): prune the plain weight before"
    return None


def why_no_arithmetic(weight: Tensor) -> str | None:
    """Why PyTorch cannot calculate with ``weight``, whose numbers can be read, or ``None``."""
    if weight.is_floating_point() and weight.dtype.itemsize == 1:
        dtype = str(weight.dtype).removeprefix("torch.")
        return f"of dtype {dtype}, in which PyTorch does not multiply: prune the weight before it is converted"
    return None


@contextmanager
def blaming_weights(model: nn.Module) -> Iterator[None]:
    """While it lasts ``model`` runs; where it cannot, ``CannotRunError`` naming the weight that is the likely reason.

    That is one without values or arithmetic. Any other error is left as it is.
    """
    try:
        yield
    except RuntimeError as error:
        for name, weight in model.named_parameters():
            missing = nn.parameter.is_lazy(weight) or weight.is_meta
            reason = why_unreadable(weight) if missing else why_no_arithmetic(weight)
            if reason is not None:
                said = (str(error).splitlines() or [""])[0]
                raise CannotRunError(f"the model does not run: {name!r} is {reason} ({said})") from error
        raise


def require_some_values(layers: Iterable[ModelWeight]) -> None:
    """Raise ``ValueError``, naming the first of ``layers``, where none of them has values yet."""
    found = list(layers)
    if found and all(not_there_yet(layer) for layer in found):
        raise ValueError(f"layer {found[0].name!r} is {why_unreadable(found[0].weight)}")


def require_finite(layers: Iterable[ModelWeight], what: str) -> None:
    """Raise ``ValueError`` naming the first of ``layers`` whose weight has a number that is not finite; ``what`` is arbitrary then."""
    for layer in layers:
        weight = layer.weight.detach()
        if why_no_arithmetic(weight) is None and not bool(weight.isfinite().all()):
            raise ValueError(
                f"layer {layer.name!r}: NaN or infinite weights: {what} would be arbitrary there; find where they diverged"
            )


def refuse_flattened(model: nn.Module) -> None:
    """Raise ``ValueError`` where FSDP1 has flattened weights."""
    if any(is_flattened(parameter) for parameter in model.parameters() if not nn.parameter.is_lazy(parameter)):
        raise ValueError(f"weights of this model are {FLATTENED}")


class HeldWeight(Protocol):
    """A weight and the module that has it."""

    @property
    def module(self) -> nn.Module:
        """Whose the weight is."""
        ...

    @property
    def weight(self) -> Tensor:
        """The tensor."""
        ...


def not_there_yet(held: HeldWeight) -> bool:
    """Whether the weight has no values anywhere: a lazy layer, or one on the meta device."""
    return nn.parameter.is_lazy(held.weight) or (held.weight.is_meta and not is_offloaded(held.module))


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate brings the weights of ``module`` in for each call, from the CPU or a disk."""
    hook = getattr(module, "_hf_hook", None)
    return any(getattr(each, "offload", False) for each in (hook, *getattr(hook, "hooks", ())))


def shape_of(weight: Tensor) -> tuple[int, ...]:
    """The shape of ``weight``; none where a lazy layer has not got one yet."""
    return () if nn.parameter.is_lazy(weight) else tuple(weight.shape)
