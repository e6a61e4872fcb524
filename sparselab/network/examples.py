"""Example inputs: one example of what the model takes, a list of several, or a loader."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sparselab.core.models import to_device

_log = logging.getLogger("sparselab")


def several(example_inputs: Any) -> list[Any]:
    """The examples: those in a list, else the one that was given."""
    return list(example_inputs) if isinstance(example_inputs, list) else [example_inputs]


def examples_of(given: Any, model: nn.Module) -> list[Any]:
    """The examples in ``given``; of a loader the inputs in its first batch, on the model's device.

    A list is several examples, each a tensor, a tuple of positional arguments, a dict of keyword
    arguments or a loader; anything else is one example.

    A loader is a ``DataLoader``, or what can be iterated again and again and has a ``dataset``. Of a
    batch that is a tuple or list, the first entry is what the model takes (labels are ignored), as
    for ``recalibrate_batchnorm``. The log says so. Random generators are as before afterwards.

    Raises ``ValueError`` for a loader without a batch, for an empty list, for a list with anything
    else in it, and for one that could be the positional arguments of one example as well.
    """
    if isinstance(given, list):
        _require_examples(given, model)
    return [_first_batch(each, model) if is_loader(each) else each for each in several(given)]


def example_of(given: Any, model: nn.Module, taker: str) -> Any:
    """The one example in ``given``, as ``examples_of`` has it, for a ``taker`` that runs the model on one.

    Raises ``ValueError`` for several.
    """
    example, *others = examples_of(given, model)
    if others:
        raise ValueError(f"{taker} takes one example, got a list of {1 + len(others)}; a tuple is positional arguments")
    return example


def as_example(batch: Any) -> Any:
    """A batch as one example that can be nothing else: positional arguments may come in a list."""
    if isinstance(batch, Tensor):
        return (batch,)
    return tuple(batch) if isinstance(batch, list) else batch


def is_loader(given: Any) -> bool:
    """Whether ``given`` is plainly a loader of batches, and not one batch."""
    return isinstance(given, DataLoader) or (
        isinstance(given, Iterable) and not isinstance(given, Iterator) and hasattr(given, "dataset")
    )


def _require_examples(given: Sequence[Any], model: nn.Module) -> None:
    """``ValueError`` unless ``given`` is a list of examples and can be nothing else."""
    if not given:
        raise ValueError("example_inputs is an empty list: give one example of what model(...) takes, or several")
    for number, each in enumerate(given):
        if not (isinstance(each, (Tensor, tuple, Mapping)) or is_loader(each)):
            raise ValueError(
                f"example_inputs is a list, which is several examples, and entry {number} is none, but a "
                f"{type(each).__name__}: an example is a tensor, a tuple of positional or a dict of keyword "
                "arguments. One example whose arguments these are is written as a tuple, (a, b)"
            )
    if len(given) > 1 and any(isinstance(each, Tensor) for each in given) and _takes(model, given):
        raise ValueError(
            f"example_inputs is a list of {len(given)}, and {type(model).__name__} takes so many positional "
            "arguments: it could be several examples or one. Write [(a,), (b,)] for several, (a, b) for one"
        )


def _takes(model: nn.Module, arguments: Sequence[Any]) -> bool:
    """Whether the model's ``forward`` takes these positional arguments, as far as its signature says."""
    try:
        inspect.signature(model.forward).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # without a signature
        return True
    return True


def _first_batch(loader: Any, model: nn.Module) -> Any:
    with _generators_kept(loader):
        batch = next(iter(loader), None)
    if batch is None:
        raise ValueError("example_inputs is a loader without a batch: pass one batch of what model(...) takes")
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    what = "the first entry of its first batch" if inputs is not batch else "its first batch"
    _log.warning("example_inputs is a loader (%s): %s is used", type(loader).__name__, what)
    device = next((tensor.device for tensor in model.parameters()), None)
    return as_example(to_device(inputs, device))


@contextmanager
def _generators_kept(loader: Any) -> Iterator[None]:
    """Torch's generator and the loader's own as before: a loader draws a seed for every pass."""
    own = [each for each in (getattr(loader, "generator", None),) if isinstance(each, torch.Generator)]
    before = [generator.get_state() for generator in own]
    with torch.random.fork_rng(devices=[]):
        yield
    for generator, state in zip(own, before):
        generator.set_state(state)
