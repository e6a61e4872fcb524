"""Any model: whether it is one, what is inside a wrapper, where it is, its mode and buffers for a while."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class CannotRunError(ValueError, RuntimeError):
    """A model failed on what it was given; the message has its first words and what to give instead.

    It is a ``RuntimeError`` too, as most of what PyTorch raises is. The cause is chained.
    """


def as_module(model: object, taker: str) -> nn.Module:
    """``model``, if it is a module.

    Raises ``ValueError`` otherwise: what ``taker`` takes, what it got, and how to make the one of the other.

    >>> as_module({"weight": torch.ones(2, 2)}, "permute")
    Traceback (most recent call last):
    ...
    ValueError: permute takes a torch.nn.Module, got a dict: load a state dict into its model first, \
model.load_state_dict(state)
    """
    if isinstance(model, nn.Module) and "_modules" in vars(model):
        return model
    raise ValueError(f"{taker} takes a torch.nn.Module, got {_instead(model)}")


def as_eager(model: object, taker: str) -> nn.Module:
    """``model``, if it is a module whose layers are Python objects that can be changed and hooked.

    Raises ``ValueError`` as ``as_module``, for what was scripted, traced or exported, and for a
    module that is inside itself: PyTorch's own walks over names do not end on it.
    """
    module = as_module(model, taker)
    inner = unwrap(module)
    if isinstance(inner, torch.jit.ScriptModule):
        raise ValueError(
            f"{taker} takes a module in Python, got a scripted or traced one, whose layers TorchScript holds: "
            "give the model that it was made of, and script that afterwards"
        )
    if any(base.__module__.startswith("torch.export.") for base in type(inner).__mro__):
        raise ValueError(
            f"{taker} takes a module with its layers, got an exported program, which has none: "
            "give the model that it was made of, and export that afterwards"
        )
    if (name := _inside_itself(inner)) is not None:
        raise ValueError(
            f"{taker} takes a module with an end, got one that is inside itself, as {name!r}: keep what points "
            "back out of the modules, e.g. in a list, self.parent = [parent]"
        )
    return module


def _inside_itself(model: nn.Module) -> str | None:
    """The name of a module that holds a module which holds it, or ``None``."""
    above: set[int] = set()
    done: set[int] = set()

    def found(module: nn.Module, name: str) -> str | None:
        if id(module) in above:
            return name
        if id(module) in done:
            return None
        above.add(id(module))
        names = (found(child, f"{name}.{own}" if name else own) for own, child in module.named_children())
        first = next((each for each in names if each is not None), None)
        above.remove(id(module))
        done.add(id(module))
        return first

    return found(model, "")


def _instead(given: object) -> str:
    """What ``given`` is, and how to come from it to a module."""
    if isinstance(given, nn.Module):
        return f"a {type(given).__name__} that is none yet: call super().__init__() in its __init__"
    if given is None:
        return "None: does the function that makes the model return it?"
    if isinstance(given, type):
        return f"the class {given.__name__}: make a model of it, {given.__name__}(...)"
    if isinstance(given, Mapping):
        return f"a {type(given).__name__}: load a state dict into its model first, model.load_state_dict(state)"
    if isinstance(given, (str, Path)):
        return f"the path {str(given)!r}: make the model and load the file into it first"
    if isinstance(given, torch.export.ExportedProgram):
        return "an exported program: give the model that it was made of, and export that afterwards"
    if isinstance(given, (list, tuple, set, Iterator)):
        return f"a {type(given).__name__}: put its modules together first, torch.nn.Sequential(*modules)"
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}: give the model that holds it"
    if callable(given):
        return f"the function {getattr(given, '__name__', type(given).__name__)}: give the model that it makes or calls"
    return f"{reprlib.repr(given)}, a {type(given).__name__}"


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter of ``model`` is, else its first buffer; the CPU where it has neither.

    Those on the meta device are passed over: offloaded weights come to their inputs.
    """
    tensors = (tensor for of in (model.parameters, model.buffers) for tensor in of())
    return next((tensor.device for tensor in tensors if not tensor.is_meta), torch.device("cpu"))


@contextmanager
def running(model: nn.Module, given: str, takes: str) -> Iterator[None]:
    """While it lasts, what ``model`` raises is a ``CannotRunError``: on what it failed, why, and what it ``takes``.

    A ``ValueError`` stays as it is, and so does running out of memory.
    """
    try:
        yield
    except (ValueError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, AttributeError, LookupError, AssertionError) as error:
        why = (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")
        raise CannotRunError(
            f"{type(model).__name__} failed on {given}: {type(error).__name__}: {why}. {takes}"
        ) from error


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside a wrapper, or inside several.

    Known are ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and
    ``AveragedModel``.
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while True:
        # Among its modules: a model that passes attributes on, or has every one, is no wrapper.
        if "_orig_mod" in model._modules and isinstance(compiled := model._orig_mod, nn.Module):
            model = compiled
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


def cuda_devices(model: nn.Module) -> list[int]:
    """The indices of the GPUs that hold parameters of ``model``, whose generators it draws from."""
    return sorted({parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"})


def to_device(batch: Any, device: torch.device | str | None) -> Any:
    """``batch`` with all tensors in its tuples, lists and mappings moved to ``device``, if given."""
    return tree_map(lambda entry: _moved(entry, device), batch) if device else batch


def _moved(entry: Any, device: torch.device | str) -> Any:
    """``entry`` on ``device``, if it is a tensor or a mapping that PyTorch does not look into, a tokenizer's say."""
    if isinstance(entry, Tensor):
        return entry.to(device)
    if isinstance(entry, Mapping):
        if hasattr(entry, "to"):
            return entry.to(device)
        return {key: to_device(value, device) for key, value in entry.items()}
    return entry


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Every module of ``model`` in training or in evaluation mode; each one's own mode afterwards.

    The flags are set one by one, and ``train()`` and ``eval()`` are not called: a model's own may
    do more than set them (merge low-rank weights, freeze a norm, refuse), and what they do beside
    the flags could not be undone. So the model is left as it was, also after an error.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = training
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """``model`` in evaluation mode for a while: see ``in_mode``."""
    return in_mode(model, training=False)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Have the buffers of ``model`` be the same tensors with the same content afterwards.

    Also after an error. A model that counts or averages in its buffers would otherwise answer the
    next call differently. Memory: one copy of the buffers meanwhile.
    """
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, content in before:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                if not torch.equal(buffer, content):
                    buffer.copy_(content)
