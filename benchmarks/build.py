"""One architecture of another library: how to build it, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SEQ: Mapping[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "vocab_size": 100,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
"""A small encoder and decoder, in the words of BART and its kin."""


@dataclass(frozen=True, eq=False)
class Build:
    """One architecture: ``model`` builds it, of the package ``family``, and ``inputs`` is what it takes."""

    name: str
    family: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Any]


class Only(nn.Module):
    """``model`` with some of its outputs alone, the first of all where it has none of them: what is returned stays."""

    def __init__(self, model: nn.Module, *outputs: str) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs called ``outputs``."""
        found = self.model(*args, **kwargs)
        if isinstance(found, Tensor):
            return found
        return [found[output] for output in self.outputs if output in found] or found[0]


class Headed(nn.Module):
    """A backbone with a linear head behind what it returns first, as it is used: that itself has to stay otherwise."""

    def __init__(self, model: nn.Module, width: int, dim: int = -1) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 10)
        self.dim = dim

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the head makes of it."""
        found = self.model(*args, **kwargs)
        scored: Tensor = self.head(found[0].movedim(self.dim, -1))
        return scored


def random_inputs(**made: Any) -> Callable[[], dict[str, Any]]:
    """Inputs by keyword: a tuple is the shape of random numbers, ``(limit, *shape)`` in a list of integers below it."""

    def inputs() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {name: _input(value, generator) for name, value in made.items()}

    return inputs


def _input(value: Any, generator: torch.Generator) -> Any:
    numbers = isinstance(value, (tuple, list)) and all(isinstance(each, int) for each in value)
    if numbers and isinstance(value, tuple):
        return torch.randn(value, generator=generator)
    if numbers:
        return torch.randint(value[0], value[1:], generator=generator)
    return value.clone() if isinstance(value, Tensor) else value


def pictures(size: int, channels: int = 3) -> Callable[[], Tensor]:
    """Two random pictures."""

    def inputs() -> Tensor:
        return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))

    return inputs


def merged(*options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """All options in one; later ones win."""
    return {name: value for each in (*options, more) for name, value in each.items()}
