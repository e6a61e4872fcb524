"""One grammar for names with options: ``"recompute,100"`` is ``"recompute,every=100"`` is ``Recompute(every=100)``."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import re
import types
import typing
import warnings
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_NAME = re.compile(r"\w+")


def unknown_name(kind: str, name: str, valid: typing.Iterable[str]) -> ValueError:
    """A ``ValueError`` that names the value, lists what is valid and guesses what was meant."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ValueError(f"unknown {kind} {name!r}; valid: {', '.join(valid)}.{hint}")


class Registry(Generic[T]):
    """Names of one kind of configuration object, each imported only when it is asked for.

    ``entries`` maps a name to ``"module:Class"``, where the class is a frozen dataclass whose fields
    are the options. ``aliases`` maps other spellings to names. ``group`` is the entry point group in
    which installed packages announce more of the kind.

    >>> shapes = Registry("shape", {})
    >>> @dataclasses.dataclass(frozen=True)
    ... class Square:
    ...     side: float = 1.0
    >>> shapes.register("square", Square)
    >>> shapes.resolve("square,2"), "square" in shapes, shapes.names()
    (Square(side=2.0), True, ['square'])
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, str],
        aliases: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, str | type[T]] = dict(entries)
        self._aliases = dict(aliases or {})

    def register(self, name: str, target: str | type[T]) -> None:
        """Let ``name`` stand for ``target``: a class, or ``"module:Class"``, imported when it is needed.

        Holds in this process; an entry point holds wherever the package is installed, in the
        workers of a sweep too. Raises ``ValueError`` for a name that cannot be written in a text
        with options, and for one that stands for something else already; the same class again,
        from a notebook's cell that is run again, takes its own place.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a {self.kind}: use letters, digits and _, no spaces or commas")
        known = self._aliases.get(name) or self._known(name)
        if known is not None and _path(known) != _path(target):
            raise ValueError(f"{name!r} names the {self.kind} {_path(known)} already; choose another name")
        self._entries[name] = target

    def names(self) -> list[str]:
        """Every valid name, sorted."""
        return sorted({*self._entries, *self.plugins})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._known(self._aliases.get(name, name)) is not None

    def get(self, name: str) -> type[T]:
        """The class behind ``name``; ``ValueError`` listing the valid names when there is none."""
        target = self._known(self._aliases.get(name, name))
        if target is None:
            raise unknown_name(self.kind, name, self.names())
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        return typing.cast("type[T]", getattr(importlib.import_module(module), attribute))

    def resolve(self, spec: str | T) -> T:
        """The object that ``spec`` stands for: built from ``"name,option,key=option"``, or ``spec`` itself.

        Raises ``ValueError`` for unknown names and options, for options that are missing.
        """
        if not isinstance(spec, str):
            return spec
        name, options = self.split(spec)
        return build(self.get(name), options, what=f"{self.kind} {name!r}")

    @staticmethod
    def split(spec: str) -> tuple[str, list[str]]:
        """The name and the option texts of ``"name,option,key=option"``."""
        name, *options = (part.strip() for part in spec.split(","))
        return name, options

    @functools.cached_property
    def plugins(self) -> Mapping[str, str]:
        """What installed packages announce in the entry point group: names and ``"module:Class"``.

        A built-in name stays what it is, and of two packages the first that is found; a warning
        says so.
        """
        found: dict[str, str] = {}
        for point in importlib.metadata.entry_points(group=self.group) if self.group else ():
            known = self._entries.get(point.name) or found.get(point.name)
            if known is None:
                found[point.name] = point.value
            elif known != point.value:
                warnings.warn(
                    f"{point.value} is left out: the {self.kind} {point.name!r} is {known} already", stacklevel=2
                )
        return found

    def _known(self, name: str) -> str | type[T] | None:
        """What ``name`` stands for. Packages are only looked through for names that are not built in."""
        return self._entries.get(name) or self.plugins.get(name)


def _path(target: str | type[Any]) -> str:
    """Where a target is defined: ``"module:Class"``."""
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def build(cls: type[T], options: typing.Sequence[str], what: str) -> T:
    """An instance of the dataclass ``cls`` from option texts, positional first, ``key=value`` anywhere.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Recompute:
    ...     every: int = 100
    ...     regrow: bool = False
    >>> build(Recompute, ["50", "regrow=true"], what="schedule 'recompute'")
    Recompute(every=50, regrow=True)
    """
    hints = typing.get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    values = converted(options, {field.name: hints[field.name] for field in fields}, what)
    missing = [
        field.name
        for field in fields
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{what} needs {' and '.join(missing)}: write them after its name, with commas between")
    return cls(**values)


def converted(options: typing.Sequence[str], hints: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values of option texts by name, each of the type in ``hints``, whose order is that of the positions."""
    fields = list(hints)
    values: dict[str, Any] = {}
    for position, option in enumerate(options):
        key, equals, text = option.partition("=")
        if not equals:
            if position >= len(fields):
                raise ValueError(
                    f"{what} takes at most {len(fields)} options ({', '.join(fields)}), got {option!r} too"
                )
            key, text = fields[position], option
        elif key.strip() not in fields:
            raise unknown_name(f"option of {what}", key.strip(), fields)
        key = key.strip()
        if key in values:
            raise ValueError(f"{what}: option {key!r} is given twice")
        values[key] = _convert(text.strip(), hints[key], f"{what}: option {key!r}")
    return values


def _convert(text: str, hint: Any, what: str) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in choices and text.lower() == "none":
        return None
    for choice in choices:
        if choice is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if choice is int and text.lstrip("+-").isdigit():
            return int(text)
        if choice is float:
            try:
                return float(text)
            except ValueError:
                continue
        if choice is str:
            return text
    names = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise ValueError(f"{what} must be {names}, got {text!r}")
