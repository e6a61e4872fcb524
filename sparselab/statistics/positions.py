"""Which positions of a layer's input count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

PositionMask: TypeAlias = str | Callable[[Any], Tensor]
"""A key of batches that are dicts, or a function of a batch: True (or 1) where a position counts."""


def mask_of(batch: Any, mask: PositionMask) -> Tensor:
    """The bool tensor that ``mask`` says of ``batch``; ``ValueError`` when it is none."""
    if isinstance(mask, str):
        if not isinstance(batch, Mapping) or mask not in batch:
            has = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(f"mask={mask!r} is a key of batches that are dicts; this batch has: {has}")
        found = batch[mask]
    else:
        found = mask(batch)
    if not isinstance(found, Tensor) or found.ndim == 0 or found.is_floating_point() or found.is_complex():
        what = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"a mask of positions is a tensor of bools, or of 0 and 1, with the leading dims of the "
            f"layers' inputs; got {what}"
        )
    return found.bool()


def counted_at(mask: Tensor, positions: Sequence[int], name: str, *, swapped: bool = False) -> Tensor:
    """``mask`` in the shape of ``positions``: a layer's input without its channels.

    A mask has the leading dimensions of a layer's input: ``(samples, tokens)``, or ``(samples,)``.

    - An input that begins with them is masked there, whatever dimensions follow.
    - One with fewer dimensions, as a pooler has with ``(samples,)``, counts where any of the
      positions behind it does: what it is given was made of the sample, and which tokens it was
      made of is not known. So samples without any token that counts are left out there too.
    - One with all positions in a row, ``(samples * tokens,)``, is masked in that order.
    - ``swapped`` inputs, of ``nn.MultiheadAttention`` with ``batch_first=False``, may be
      ``(tokens, samples)``.

    Raises ``ValueError`` for any other input, and for swapped ones where both readings fit: a layer
    left unmasked, or masked in the wrong order, would be a wrong number that nobody sees.
    """
    shape, own = tuple(positions), tuple(mask.shape)
    if swapped and len(own) > 1:
        if own[0] == own[1] and shape[:2] == own[:2]:
            raise ValueError(
                f"the mask of shape {own} fits the input of {name!r} both as (samples, tokens) and as "
                "(tokens, samples): its attention has batch_first=False; use batches of another size"
            )
        if shape[:2] == own[1::-1]:
            mask = mask.transpose(0, 1)
            own = tuple(mask.shape)
    if shape[: len(own)] == own:
        return mask.reshape(own + (1,) * (len(shape) - len(own))).expand(shape)
    if shape == own[: len(shape)]:
        return mask.flatten(len(shape)).any(-1)
    if shape == (mask.numel(),):
        return mask.flatten()
    raise ValueError(
        f"the mask of shape {own} does not fit what {name!r} is given, positions {shape}: collect for the layers that "
        "it fits, layers=[...], and for the others in a pass of their own"
    )


def without_others(inputs: Tensor, counted: Tensor | None) -> Tensor:
    """``inputs`` (channels last) with zeros at the positions that do not count."""
    return inputs if counted is None else torch.where(counted.unsqueeze(-1), inputs, 0)
