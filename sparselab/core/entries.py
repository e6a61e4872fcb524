"""The weights that several entries of a state dict stand for: masks, norms and other parametrisations."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class MadeOf:
    """A weight that a state dict holds as several ``entries``; it stands in the place of the first.

    ``value`` makes it of their tensors, in that order, and ``how`` says in what way. ``value`` is
    ``None`` where the state does not tell, and ``how`` says why.
    """

    name: str
    entries: tuple[str, ...]
    value: Callable[..., Tensor] | None
    how: str

    def of(self, state: Mapping[str, Any]) -> Tensor:
        """The weight in ``state``; ``ValueError`` where its entries do not fit each other."""
        assert self.value is not None
        parts = [state[entry] for entry in self.entries]
        try:
            return self.value(*parts)
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            held = ", ".join(f"{entry} {_shape(part)}" for entry, part in zip(self.entries, parts))
            raise ValueError(f"cannot put {self.name!r} together, its entries do not fit: {held}") from error


def _shape(part: Any) -> object:
    if not isinstance(part, Tensor):
        return type(part).__name__
    return "nested" if part.is_nested else tuple(part.shape)


# ------------------------------------------------------------------------------------------- masks


def mask_name(attribute: str) -> str:
    """The buffer beside the weight ``attribute`` that holds its mask, as ASP's checkpoints have it."""
    return f"__{attribute}_mma_mask"


def pruned_name(attribute: str) -> str:
    """The buffer that holds what pruning took, as ASP's checkpoints have it."""
    return f"__{attribute}_mma_pruned_p"


_OWN = re.compile(r"(?P<module>(?:.*\.)?)__(?P<attribute>[^.]+)_mma_(?:mask|pruned_p)")


def own_masks(names: Collection[str]) -> Iterator[MadeOf]:
    """Weights under masks of ``Sparsifier`` and ASP: the weight, its mask, what pruning took."""
    weights = dict.fromkeys((found["module"], found["attribute"]) for n in names if (found := _OWN.fullmatch(n)))
    for module, attribute in weights:
        name, mask, pruned = (module + part for part in (attribute, mask_name(attribute), pruned_name(attribute)))
        if name in names and mask in names:
            entries = (name, mask, *([pruned] if pruned in names else []))
            yield MadeOf(name, entries, masked_by, f"{attribute} x {mask_name(attribute)}")


def other_masks(names: Collection[str]) -> Iterator[MadeOf]:
    """Weights under masks of ``torch.nn.utils.prune``, or of a parametrisation with nothing but a ``mask``."""
    for name in names:
        if name.endswith("_orig") and (mask := f"{name.removesuffix('_orig')}_mask") in names:
            how = f"{_last(name)} x {_last(mask)}"
            yield MadeOf(name.removesuffix("_orig"), (name, mask), masked_by, how)
    for name, parts in _parametrisations(names):
        if set(parts) == {"original", "0.mask"}:
            how = "original x mask, of its parametrisation"
            yield MadeOf(name, (parts["original"], parts["0.mask"]), masked_by, how)


def masked_by(weight: Tensor, mask: Tensor, pruned: Tensor | None = None) -> Tensor:
    """``weight`` where ``mask`` is not zero, and zero elsewhere; scaled, where the mask is not of zeros and ones."""
    if weight.shape != mask.shape:
        raise TypeError(f"a mask of shape {tuple(mask.shape)} on {tuple(weight.shape)}")
    mask = mask.to(weight.device)
    if mask.dtype == torch.bool:
        return torch.where(mask, weight, torch.zeros_like(weight))
    return torch.where(mask != 0, weight * mask, torch.zeros_like(weight)).to(weight.dtype)


# -------------------------------------------------------------------------------- parametrisations


_LENGTHS = re.compile(r"(?P<weight>(.*\.)?weight[^.]*)_g")


def parametrised(names: Collection[str]) -> Iterator[MadeOf]:
    """Weights that are computed of others at every use, both in PyTorch's old way and in its new one."""
    for name in names:
        if (found := _LENGTHS.fullmatch(name)) and (direction := f"{found['weight']}_v") in names:
            how = f"{_last(name)} x {_last(direction)}, weight norm"
            yield MadeOf(found["weight"], (name, direction), _normed, how)
        if name.endswith("_orig") and f"{(weight := name.removesuffix('_orig'))}_u" in names:
            how = f"{_last(name)}, which spectral norm divides by one number"
            others = [part for part in (f"{weight}_u", f"{weight}_v") if part in names]
            yield MadeOf(weight, (name, *others), _first, how)
    for name, parts in _parametrisations(names):
        yield _of_parts(name, parts)


def _of_parts(name: str, parts: Mapping[str, str]) -> MadeOf:
    kinds, entries = set(parts), tuple(parts[kind] for kind in sorted(parts, key=_originals_first))
    if kinds == {"original0", "original1"}:
        return MadeOf(name, entries, _normed, "original0 x original1, weight norm")
    if kinds == {"original", "0._u", "0._v"}:
        return MadeOf(name, entries, _first, "original, which spectral norm divides by one number")
    why = "computed by a parametrisation, and the state does not say how: check the module itself"
    return MadeOf(name, entries, None, why)


def _originals_first(kind: str) -> tuple[bool, str]:
    return not kind.startswith("original"), kind


_PARAMETRISATION = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<attribute>[^.]+)\.(?P<part>.+)")


def _parametrisations(names: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every parametrised tensor: its name, and its entries by the part that they are."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _PARAMETRISATION.fullmatch(name):
            found.setdefault(match["module"] + match["attribute"], {})[match["part"]] = name
    for name, parts in found.items():
        if any(part.startswith("original") for part in parts):
            yield name, parts


def _normed(length: Tensor, direction: Tensor) -> Tensor:
    """Weight norm: ``direction`` scaled to ``length``, which has one entry for each norm."""
    if length.ndim not in (0, direction.ndim):
        raise TypeError(f"lengths of shape {tuple(length.shape)} for {tuple(direction.shape)}")
    dims = [dim for dim in range(direction.ndim) if length.ndim == 0 or length.shape[dim] == 1]
    norm = torch.linalg.vector_norm(direction, dim=dims, keepdim=True)
    scaled = direction * (length / norm)
    return torch.where(direction == 0, torch.zeros_like(scaled), scaled)  # of a direction of zeros, 0 / 0


def _first(weight: Tensor, *_: Tensor) -> Tensor:
    return weight


def _last(name: str) -> str:
    return name.rpartition(".")[2]
