"""How a value or a function is shown in a frame, and the digest that tells it from others."""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import json
import types
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

_NAMED = (types.FunctionType, types.BuiltinFunctionType, type)  # what is known by its module and name

Cell = str | int | float | bool | tuple[Any, ...] | None


def cell(value: object) -> Cell:
    """``value`` as a frame shows it.

    Numbers, strings, ``None`` and tuples of them stay as they are; a member of an ``Enum`` is its
    value, if that is one of these, else its name; anything else becomes a text.

    >>> from sparselab.core.patterns import Pattern
    >>> cell(np.float64(0.5)), cell(Pattern.parse("m4n2_1d")), cell(len)
    (0.5, '2:4', 'len')
    """
    scalar = _scalar(value)
    if isinstance(scalar, str):
        return printable(scalar)
    if scalar is None or isinstance(scalar, (bool, int, float)):
        return scalar
    if isinstance(value, enum.Enum):
        held = _scalar(value.value)
        return cell(held) if isinstance(held, (bool, int, float, str)) else value.name
    if isinstance(value, (tuple, list)):
        return tuple(cell(item) for item in value)
    if isinstance(value, functools.partial):
        return f"partial({cell(value.func)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return printable(str(value))


def printable(text: str) -> str:
    """``text`` with halves of surrogate pairs, which no file can hold, written as escapes.

    >>> printable("caf\\u00e9 \\udcff")
    'caf\u00e9 \\\\udcff'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _scalar(value: object) -> Any:
    """A Python scalar for numpy's and torch's, plain values for subclasses, a text for a path."""
    if isinstance(value, np.generic) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0):
        return value.item()
    if isinstance(value, (PurePath, np.dtype, torch.dtype, torch.device)):
        return str(value)
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def digest(value: object) -> str:
    """20 hexadecimal digits of the SHA-256 of what ``value`` is made of; the same in every process.

    A function counts by its compiled source (comments and layout do not matter), by the functions
    of its module that it names, its defaults and bound arguments. Of what it closes over,
    functions, classes, numbers, texts and tuples of them count. Other data do not (see
    ``hides_data``), nor does a name that the function itself assigns to. Dataclasses count by their
    fields, arrays by their contents. Raises ``ValueError`` for a value that only its address could
    tell from another.
    """
    text = json.dumps(_parts(value, frozenset()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _parts(value: object, seen: frozenset[int]) -> Any:
    scalar = _scalar(value)
    if scalar is None or isinstance(scalar, (bool, int, float, str)):
        return scalar
    if isinstance(value, enum.Enum):
        return ["enum", type(value).__module__, type(value).__qualname__, value.name]
    if isinstance(value, (bytes, complex)) or value is Ellipsis:
        return [type(value).__name__, repr(value)]
    if isinstance(value, (tuple, list, range)):
        return [type(value).__name__, *(_parts(item, seen) for item in value)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(json.dumps(_parts(item, seen), sort_keys=True) for item in value)]
    if isinstance(value, Mapping):
        return ["mapping", *([_parts(key, seen), _parts(item, seen)] for key, item in value.items())]
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return _array_parts(value)
    if isinstance(value, types.CodeType):
        return _code_parts(value, seen)
    if isinstance(value, type):
        return ["type", value.__module__, value.__qualname__]
    if callable(value):
        return _callable_parts(value, seen)
    if dataclasses.is_dataclass(value):
        return _dataclass_parts(value, seen)
    raise ValueError(
        f"a {type(value).__qualname__} has no identity that a later run could know again: use a number, a text, a tuple, "
        "an array or a dataclass as input, or a name that the task looks up"
    )


def _array_parts(value: np.ndarray[Any, Any] | torch.Tensor) -> list[Any]:
    array = value if isinstance(value, np.ndarray) else value.detach().cpu().contiguous().view(torch.uint8).numpy()
    contents = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return ["array", str(value.dtype), list(value.shape), contents]


def _dataclass_parts(value: Any, seen: frozenset[int]) -> list[Any]:
    fields = {field.name: _parts(getattr(value, field.name), seen) for field in dataclasses.fields(value)}
    return ["dataclass", type(value).__module__, type(value).__qualname__, fields]


def _callable_parts(value: Callable[..., Any], seen: frozenset[int]) -> Any:
    if id(value) in seen:
        return "itself"
    seen |= {id(value)}
    if isinstance(value, functools.partial):
        return ["partial", *(_parts(part, seen) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, types.MethodType):
        return ["method", _parts(value.__func__, seen), _parts(value.__self__, seen)]
    if isinstance(value, types.FunctionType):
        parts = ["function", _code_parts(value.__code__, seen), _defaults(value), _helpers(value, seen)]
        closed = _closed(value).items()
        told = {name: held for name, held in closed if _is_plain(held)}
        told |= {name: (held.__module__, held.__qualname__) for name, held in closed if isinstance(held, _NAMED)}
        return [*parts, _parts(told, seen)] if told else parts
    if isinstance(value, types.BuiltinFunctionType):
        return ["builtin", value.__module__, value.__qualname__]
    call = _parts(type(value).__call__, seen) if isinstance(type(value).__call__, types.FunctionType) else None
    state = _dataclass_parts(value, seen) if dataclasses.is_dataclass(value) else type(value).__qualname__
    return ["callable", state, call]


def _code_parts(code: types.CodeType, seen: frozenset[int]) -> list[Any]:
    constants = [_parts(constant, seen) for constant in code.co_consts]
    return ["code", code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _defaults(function: types.FunctionType) -> list[Any]:
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [_parts(value, frozenset()) if _is_plain(value) else type(value).__name__ for value in values]


def _is_plain(value: object) -> bool:
    """Whether a value cannot change: a number, a text, nothing, or a tuple of such."""
    return value is None or (
        all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, (str, bytes, int, float, complex))
    )


def hides_data(function: object) -> bool:
    """Whether a function closes over data that its digest leaves out.

    Two such functions may differ although their digests are equal.
    """
    held = _closed(function).values() if isinstance(function, types.FunctionType) else ()
    return not all(_is_plain(value) or isinstance(value, _NAMED) for value in held)


def _closed(function: types.FunctionType) -> dict[str, Any]:
    """What a function closes over, by name, without what it assigns to, such as a counter."""
    assigned = {each.argval for each in dis.get_instructions(function.__code__) if each.opname == "STORE_DEREF"}
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    return {name: each.cell_contents for name, each in sorted(cells) if _is_filled(each) and name not in assigned}


def _helpers(function: types.FunctionType, seen: frozenset[int]) -> dict[str, Any]:
    """The functions of its own module that ``function`` wraps or names: part of its source."""
    named = _closed(function)
    named |= {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    return {
        name: _parts(value, seen)
        for name, value in sorted(named.items())
        if isinstance(value, types.FunctionType) and value.__module__ == function.__module__
    }


def _is_filled(each: types.CellType) -> bool:
    try:
        each.cell_contents  # noqa: B018
        return True
    except ValueError:  # a name that is bound later, or never
        return False


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))
