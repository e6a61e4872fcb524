"""A model as a graph of ATen operators (``torch.export``), without leaving a trace on the model."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule

from sparselab.network.implementations import traceable_experts

_CONTAINERS = (dict, OrderedDict, list, set)
_OUR_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class UntraceableError(ValueError, RuntimeError):
    """``torch.export`` could not trace a model; the message names the line and the way out."""


@dataclass(frozen=True)
class Graph:
    """A traced model: its ``module`` of ATen operators, and what every placeholder stands for.

    ``tensors`` maps a placeholder to the name of a parameter or persistent buffer, ``constants`` to
    a tensor that is always the same; placeholders in neither are inputs of the model. ``outputs``
    are the paths to the tensors in its output, and behind them to what a function made of it;
    ``chosen`` are the positions of those that matter, ``top_level`` the entries of its output.
    """

    module: GraphModule
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    chosen: frozenset[int] = frozenset()
    top_level: tuple[str, ...] = ()


Pick = Callable[[Any], Sequence[tuple[str, Tensor]]]
"""From what a model returns to the tensors of it that matter, with their paths."""


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One example as ``(args, kwargs)``: a tuple or list is positional, a mapping by keyword."""
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in an output: in containers, dataclasses and the attributes of other objects."""
    return [tensor for _, tensor in named_tensors(value)]


def named_tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Every tensor in an output, with its path such as ``logits`` or ``hidden_states.3``."""
    return list(_named_tensors(value, "", set()))


def _named_tensors(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, (tuple, list)):
        inside = enumerate(value)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        inside = vars(value).items()
    if id(value) in seen:
        return
    seen.add(id(value))
    for key, item in inside:
        yield from _named_tensors(item, f"{path}.{key}" if path else str(key), seen)


@dataclass(frozen=True)
class Returned:
    """What the model returned while it was traced: see ``Graph``."""

    outputs: tuple[str, ...]
    chosen: frozenset[int]
    top_level: tuple[str, ...]


class _TensorsOut(nn.Module):
    """``model`` with the flat tuple of the tensors in its output, and of those that ``pick`` makes.

    ``told`` hears what was returned, and the error of ``pick`` if it raised one.
    """

    def __init__(self, model: nn.Module, pick: Pick, told: list[Returned | ValueError]) -> None:
        super().__init__()
        self.model = model
        self.pick = pick
        self.told = told

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        output = self.model(*args, **kwargs)
        found = named_tensors(output)
        try:
            picked = self.pick(output)
        except ValueError as error:
            self.told.append(error)
            raise
        places = {id(tensor): place for place, (_, tensor) in reversed([*enumerate(found)])}
        chosen = {places[id(tensor)] for _, tensor in picked if id(tensor) in places}
        made = [(path, tensor) for path, tensor in picked if id(tensor) not in places]
        chosen.update(range(len(found), len(found) + len(made)))
        paths = tuple(path for path, _ in [*found, *made])
        self.told.append(Returned(paths, frozenset(chosen), top_level(output)))
        return tuple(tensor for _, tensor in [*found, *made])


def top_level(output: Any) -> tuple[str, ...]:
    """The entries of what a model returned, in their order; ``("",)`` for one tensor."""
    if isinstance(output, Mapping):
        return tuple(map(str, output))
    if isinstance(output, (tuple, list)):
        return tuple(map(str, range(len(output))))
    if hasattr(output, "__dict__") and not isinstance(output, Tensor):
        return tuple(vars(output))
    return ("",)


def trace(model: nn.Module, example: Any, pick: Pick = named_tensors) -> Graph:
    """The graph of ``model`` on one ``example``, in the mode (training or not) that it is in.

    Nothing is printed, and the model is left as it was, also after an error. Raises
    ``UntraceableError`` naming the line of the user's code at which ``torch.export`` stopped, and
    ``ValueError`` where ``pick`` does.
    """
    with traceable_experts(model):
        program, returned = exported(model, example, pick=pick)
    tensors: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        name = getattr(spec.arg, "name", "")
        target = spec.target or ""
        if spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent):
            tensors[name] = target.removeprefix(EXPORTED_AS)
        elif spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            constants[name] = program.constants[target]
    return Graph(program.graph_module, tensors, constants, returned.outputs, returned.chosen, returned.top_level)


EXPORTED_AS = "model."
"""What the names of a model's tensors begin with in the program that ``exported`` makes of it."""


def exported(
    model: nn.Module, example_inputs: Any, *, dynamic_shapes: Any = None, pick: Pick = named_tensors
) -> tuple[ExportedProgram, Returned]:
    """``model`` as an exported program whose outputs are tensors, and what they are in its own output.

    Otherwise as ``trace``. ``dynamic_shapes`` are those of ``torch.export``: one entry for each
    positional input, or a mapping by keyword.
    """
    args, kwargs = as_call(example_inputs)
    told: list[Returned | ValueError] = []
    wrapped = _TensorsOut(model, pick, told)
    wrapped.training = model.training  # without `train()`, which would reach into the model
    _require_shapes(dynamic_shapes, args, kwargs)
    if dynamic_shapes is not None:  # by the names of the wrapper's own parameters
        dynamic_shapes = {"kwargs": dynamic_shapes} if kwargs else {"args": tuple(dynamic_shapes)}
    try:
        with quietly(), restored(model), no_fused_attention():
            program = torch.export.export(wrapped, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # anything that the user's code or torch.export raises
        if told and isinstance(told[-1], ValueError):
            raise told[-1] from error
        raise UntraceableError(_explain(error)) from error
    returned = told[-1]
    assert isinstance(returned, Returned)
    return program, returned


def _require_shapes(dynamic_shapes: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where ``dynamic_shapes`` has not one entry for each input."""
    if dynamic_shapes is None:
        return
    if kwargs and not isinstance(dynamic_shapes, Mapping):
        raise ValueError(f"dynamic_shapes={dynamic_shapes!r}: inputs by keyword take a mapping of {', '.join(kwargs)}")
    if not kwargs and (not isinstance(dynamic_shapes, (list, tuple)) or len(dynamic_shapes) != len(args)):
        raise ValueError(
            f"dynamic_shapes={dynamic_shapes!r}: give one entry for each of the {len(args)} positional inputs, "
            "[{0: torch.export.Dim.DYNAMIC}], None for one that keeps its shape"
        )


def _explain(error: Exception) -> str:
    """One paragraph: the line of the user's code, the error's first line, and the way out."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    where = f"{frames[-1].filename}:{frames[-1].lineno} (`{frames[-1].line}`)" if frames else "the model"
    return (
        f"torch.export stopped at {where}: {type(error).__name__}: {first[:300].rstrip('.')}. "
        f"{_MISSING if _is_missing(error) else _REWRITE}"
    )


_REWRITE = (
    "If the model itself runs on these inputs, write that line so that it does not depend on "
    "tensor values or on Python side effects, or pass a submodule without it"
)
_MISSING = (
    "An input is None there: give it too, an attention_mask of ones, say, for texts without padding; "
    "pixel_values or decoder_input_ids where the model takes them"
)


def _is_missing(error: Exception) -> bool:
    """Whether the model made use of an optional input that was not given."""
    return isinstance(error, (AttributeError, TypeError)) and "'NoneType' object" in str(error)


def _is_library(filename: str) -> bool:
    return filename.startswith((*_OUR_FOLDERS, "<")) or "/contextlib.py" in filename


def source_line(stack_trace: str | None) -> str | None:
    """The user's innermost line in the stack trace of a graph's node, as ``file.py:12``."""
    for line in reversed((stack_trace or "").splitlines()):
        head, _, tail = line.strip().partition('", line ')
        if head.startswith('File "') and not _is_library(head.removeprefix('File "')):
            return f"{Path(head.removeprefix('File ')[1:]).name}:{tail.partition(',')[0]}"
    return None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Print, log and warn of nothing meanwhile: torch does so at length, even where all is well."""
    level, handlers = logging.root.manager.disable, logging.root.handlers[:]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)
            logging.root.handlers[:] = handlers  # ``logging.warning`` adds one, which would write to nobody ever after


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put back every attribute of every module, and the content of its lists, dicts and sets.

    A forward pass may store tensors in them, and while it is traced those are fake tensors.
    """
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    before: list[tuple[Any, Any]] = [(module.__dict__, dict(module.__dict__)) for module in modules]
    before += [(held, held.copy()) for _, own in before for held in own.values() if type(held) in _CONTAINERS]
    try:
        yield
    finally:
        for held, content in before:
            held.clear()
            (held.extend if isinstance(held, list) else held.update)(content)


@contextlib.contextmanager
def no_fused_attention() -> Iterator[None]:
    """Attention as the operators that it consists of, not as one fused operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
