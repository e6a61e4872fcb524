"""Example inputs of a model whose user gave none: those of a forward pass that was seen, or a guess that fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sparselab.modes import evaluating

SIDES = (224, 64, 32, 28, 299, 256, 128, 96, 48, 16)
LENGTHS = (16, 128, 512, 1024)

HOW_TO_PASS = (
    "pass example_inputs=..., what model(...) takes (a tensor, a tuple of positional or a dict of keyword arguments), "
    "or run one forward pass between init_model_for_pruning and compute_sparse_masks"
)


class InputWatcher:
    """Keeps the inputs of the first forward pass of ``model`` from now on, until ``stop``."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: Any = None
        self._watching = True
        self._handle = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def stop(self) -> None:
        """Watch no longer and let go of what was seen."""
        self._handle.remove()
        self._watching = False
        self.seen = None

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._watching and self.seen is None and not (args and kwargs):
            self.seen = _detached(dict(kwargs) if kwargs else args)

    def __deepcopy__(self, memo: dict[int, Any]) -> InputWatcher:
        """A copy of the model is not watched."""
        other = object.__new__(InputWatcher)
        other.seen, other._watching = None, False
        return other


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _detached(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_detached(entry) for entry in value)
    return value


def infer_inputs(model: nn.Module) -> Any:
    """Inputs that ``model`` accepts, guessed from its first layer, or ``None`` when no guess runs.

    Guesses are tried on fake tensors: nothing is computed, and no memory taken. Conv2d: ``(1, C, s, s)``, Linear:
    ``(1, F)`` and ``(1, T, F)``, Embedding: integer ids; a Hugging Face model: its ``dummy_inputs``. Values come from a
    fixed seed. The model's mode is as before afterwards.
    """
    with evaluating(model):
        for candidate in _candidates(model):
            if _runs(model, candidate):
                return candidate
    return None


def _runs(model: nn.Module, inputs: Any) -> bool:
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = {key: mode.from_tensor(value) for key, value in _by_key(inputs).items()}
            if isinstance(inputs, Mapping):
                model(**fake)
            else:
                model(*fake.values())
    except Exception:  # whatever a model raises on inputs that are not for it: this guess was wrong
        return False
    return True


def _by_key(inputs: Any) -> dict[Any, Tensor]:
    return dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))


def _candidates(model: nn.Module) -> Iterator[Any]:
    """Guesses, the likeliest first: a tuple of positional or a dict of keyword arguments."""
    parameter = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> tuple[Tensor]:
        return (torch.randn(shape, generator=generator).to(parameter.device, parameter.dtype),)

    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and dummy:
        yield {key: value.to(parameter.device) for key, value in dummy.items() if isinstance(value, Tensor)}
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            for side in LENGTHS if isinstance(module, nn.Conv1d) else SIDES:
                yield noise(1, module.in_channels, *([side] * (len(module.kernel_size) - 1)), side)
            return
        if isinstance(module, nn.Linear):
            yield noise(1, module.in_features)
            for length in LENGTHS[:2]:
                yield noise(1, length, module.in_features)
            return
        if isinstance(module, nn.MultiheadAttention):
            for length in LENGTHS[:2]:
                yield noise(1, length, module.embed_dim)
            return
        if isinstance(module, nn.Embedding):
            for length in LENGTHS[:2]:
                ids = torch.randint(module.num_embeddings, (1, length), generator=generator)
                yield (ids.to(parameter.device),)
            return
