"""Which positions of a layer's input count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

PositionMask: TypeAlias = str | Callable[[Any], Tensor | tuple[Tensor, ...]]
"""A key of batches that are dicts, or a function of a batch: True (or 1) where a position counts.

Where there are several masks, a layer counts by the one that has the positions of its input.
"""


class MisfitError(ValueError):
    """A mask does not have the positions of a layer's input."""


def padding(batch: Any) -> tuple[Tensor, ...]:
    """The masks of padding in what a tokenizer makes, which ``collect`` looks for by default.

    That is ``attention_mask`` of shape ``(samples, tokens)`` in a mapping (a dict, a
    ``BatchEncoding``, a ``ModelOutput``), bools or numbers 0 and 1. With ``decoder_attention_mask``
    or other inputs of a decoder (without a mask: all of them count) there are two. Nothing, ``()``,
    where no position is padding.

    Raises ``ValueError`` for an ``attention_mask`` of another kind, which says who sees whom
    (causal ones of shape ``(samples, 1, tokens, tokens)``) and not which positions are padding.
    """
    if not isinstance(batch, Mapping):
        return ()
    own = _padding_mask(batch, "attention_mask")
    theirs = _padding_mask(batch, "decoder_attention_mask")
    if theirs is None:
        decoded = next(
            (batch[key] for key in ("decoder_input_ids", "decoder_inputs_embeds") if _there(batch, key)), None
        )
        theirs = None if decoded is None else torch.ones(decoded.shape[:2], dtype=torch.bool, device=decoded.device)
    masks = tuple(mask for mask in (own, theirs) if mask is not None)
    return masks if any(not bool(mask.all()) for mask in masks) else ()


def hides_pixels(batch: Any) -> bool:
    """Whether a batch has a ``pixel_mask`` that hides some."""
    mask = batch.get("pixel_mask") if isinstance(batch, Mapping) else None
    return isinstance(mask, Tensor) and not bool(mask.all())


def _there(batch: Mapping[str, Any], key: str) -> bool:
    return batch.get(key) is not None


def _padding_mask(batch: Mapping[str, Any], key: str) -> Tensor | None:
    found = batch.get(key)
    if found is None:
        return None
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[1] == found.shape[2] == 1:
        found = found[:, 0, 0]  # the same for all that look: padding
    if isinstance(found, Tensor) and found.ndim == 2 and bool(((found == 0) | (found == 1)).all()):
        return found.bool()
    what = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise ValueError(
        f"{key!r} of a batch is {what}: padding is a mask of 0 and 1 of shape (samples, tokens), and any other says "
        "who sees whom. Say which positions count by mask=..., a function of the batch, or mask=None if all do"
    )


def masks_of(batch: Any, mask: PositionMask) -> tuple[Tensor, ...]:
    """The bool tensors that ``mask`` says of ``batch``; ``ValueError`` for what is none."""
    if isinstance(mask, str):
        if not isinstance(batch, Mapping) or mask not in batch:
            has = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise ValueError(f"mask={mask!r} is a key of batches that are dicts; this batch has: {has}")
        found = batch[mask]
    else:
        found = mask(batch)
    return tuple(_checked(each) for each in (found if isinstance(found, tuple) else (found,)))


def _checked(found: object) -> Tensor:
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

    Raises ``MisfitError``, a ``ValueError``, for any other input, and for swapped ones where both
    readings fit: a layer left unmasked, or masked in the wrong order, would be a wrong number that
    nobody sees.
    """
    shape, own = tuple(positions), tuple(mask.shape)
    if swapped and len(own) > 1:
        if own[0] == own[1] and shape[:2] == own[:2]:
            raise MisfitError(
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
    raise MisfitError(
        f"the mask of shape {own} does not fit what {name!r} is given, positions {shape}: collect for the layers that "
        "it fits, layers=[...], and for the others in a pass of their own"
    )


def without_others(inputs: Tensor, counted: Tensor | None) -> Tensor:
    """``inputs`` (channels last) with zeros at the positions that do not count."""
    return inputs if counted is None else torch.where(counted.unsqueeze(-1), inputs, 0)
