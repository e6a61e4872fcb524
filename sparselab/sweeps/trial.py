"""A trial as its task sees it: the inputs, by name, and no way to change them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn


class Trial(Mapping[str, Any]):
    """The inputs of one trial: a frozen mapping whose items are attributes too. Travels by pickle.

    >>> trial = Trial({"x": 3, "seed": 0})
    >>> trial.x, trial["x"], dict(trial)
    (3, 3, {'x': 3, 'seed': 0})
    """

    __slots__ = ("_inputs",)

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_inputs", dict(inputs))

    def __getitem__(self, name: str) -> Any:
        return self._inputs[name]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            if name in self._inputs:
                return self._inputs[name]
            raise AttributeError(f"the trial has no input {name!r}; it has {', '.join(self._inputs) or 'none'}")
        raise AttributeError(name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a trial is frozen: {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a trial is frozen: {name!r} cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._inputs])

    def __repr__(self) -> str:
        return f"Trial({', '.join(f'{name}={value!r}' for name, value in self._inputs.items())})"

    def __reduce__(self) -> tuple[type[Trial], tuple[dict[str, Any]]]:
        return Trial, (self._inputs,)
