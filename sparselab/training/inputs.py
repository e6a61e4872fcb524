"""Example inputs of a model whose user gave none: those of a forward pass that was seen, or a guess that fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from sparselab.core.models import buffers_kept, cuda_devices, evaluating
from sparselab.network.tracing import as_call, quietly, restored

VOLUMES = (32, 16, 64, 8, 4, 1)
SIDES = (224, 64, 32, 28, 299, 256, 227, 192, 160, 128, 112, 96, 84, 48, 16, 8, 4, 1)
LENGTHS = (16, 128, 512, 1024, 8, 4)

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
            given = dict(kwargs) if kwargs else args
            self.seen = tree_map(lambda entry: entry.detach().clone() if isinstance(entry, Tensor) else entry, given)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model is not watched, and a pickle is a copy.
        return {"seen": None, "_watching": False}


def infer_inputs(model: nn.Module) -> Any:
    """Inputs that ``model`` accepts, guessed from its layers, or ``None`` when no guess runs.

    Guesses are tried on fake tensors, and what the model keeps of them is put back: a wrong one
    computes nothing, takes no memory, prints nothing and leaves no trace. The one that fits then
    runs once as it is, since fake ids are never out of range. Convolutions: ``(1, C, s, s)``,
    Linear: ``(1, F)`` and ``(1, T, F)``, Embedding: integer ids; a Hugging Face model: its
    ``dummy_inputs``. Values come from a fixed seed. The model's mode is as before afterwards.
    """
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        return None  # a forward pass, even of a wrong guess, would give them a shape
    with evaluating(model), torch.random.fork_rng(cuda_devices(model)), quietly(), torch.no_grad():
        for candidate in _candidates(model):
            if _runs(model, candidate, faked=True) and _runs(model, candidate, faked=False):
                return candidate
    return None


def _runs(model: nn.Module, inputs: Any, *, faked: bool) -> bool:
    args, kwargs = as_call(inputs)
    mode = FakeTensorMode(allow_non_fake_inputs=True) if faked else None
    try:
        with restored(model), buffers_kept(model) if mode is None else mode:
            if mode is not None:
                args, kwargs = tree_map(mode.from_tensor, (args, kwargs))
            model(*args, **kwargs)
    except Exception:  # whatever a model raises on inputs that are not for it: this guess was wrong
        return False
    return True


def _candidates(model: nn.Module) -> Iterator[Any]:
    """Guesses, the likeliest first: a tuple of positional or a dict of keyword arguments."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and dummy:
        yield {key: value.to(device) for key, value in dummy.items() if isinstance(value, Tensor)}
    firsts: dict[type[nn.Module], nn.Module] = {}
    for module in model.modules():  # the first in the list of modules need not be the first that runs
        firsts.setdefault(type(module), module)
    for module in firsts.values():
        yield from _inputs_of(module, device)


def _inputs_of(module: nn.Module, device: torch.device) -> Iterator[tuple[Tensor]]:
    """Inputs for a model whose first layer is ``module``."""
    generator = torch.Generator().manual_seed(0)
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
    shapes: list[tuple[int, ...]] = []
    if isinstance(module, _ConvNd):
        dims = len(module.kernel_size)
        shapes = [(1, module.in_channels, *[side] * dims) for side in (LENGTHS, SIDES, VOLUMES)[dims - 1]]
    elif isinstance(module, nn.Linear):
        shapes = [(1, module.in_features), *((1, length, module.in_features) for length in LENGTHS)]
    elif isinstance(module, nn.MultiheadAttention):
        shapes = [(1, length, module.embed_dim) for length in LENGTHS]
    elif isinstance(module, nn.RNNBase):
        shapes = [(1, length, module.input_size) for length in LENGTHS]
    elif isinstance(module, nn.Embedding):
        for length in LENGTHS:
            yield (torch.randint(module.num_embeddings, (1, length), generator=generator).to(device),)
    for shape in shapes:
        yield (torch.randn(shape, generator=generator).to(device, dtype),)
