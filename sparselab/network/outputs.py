"""Which outputs of a model matter: all, some by name or index, or what a function makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from sparselab.network.tracing import Graph, named_tensors, tensors_in, top_level

Outputs: TypeAlias = str | int | Sequence[str | int] | Callable[[Any], Any]
"""Names such as ``"logits"``, indices, several of them, or a function of what the model returns."""

_EXAMPLE = 'outputs takes names ("logits"), indices, a list of them, or a function of what the model returns'


@dataclass(frozen=True)
class OutputChoice:
    """The outputs that have to stay as they are.

    ``entries`` are names and indices, ``None`` for all; a name stands for everything below it
    (``"hidden_states"`` for ``hidden_states.3``). ``function``, where given, is applied to what the
    model returns, and the tensors in its result are the ones that matter.
    """

    entries: tuple[str | int, ...] | None = None
    function: Callable[[Any], Any] | None = None

    @classmethod
    def of(cls, outputs: Outputs | None) -> OutputChoice:
        """The choice that ``outputs`` stands for; ``ValueError`` for anything else."""
        if outputs is None:
            return cls()
        if callable(outputs):
            return cls(function=outputs)
        several = isinstance(outputs, Iterable) and not isinstance(outputs, (str, bytes, Mapping, Tensor))
        entries = tuple(outputs) if several else (outputs,)  # type: ignore[arg-type]
        wrong = [entry for entry in entries if isinstance(entry, bool) or not isinstance(entry, (str, int))]
        if wrong or not entries or "" in entries:
            raise ValueError(f"{_EXAMPLE}; got {outputs!r}")
        return cls(entries)  # type: ignore[arg-type]

    def __call__(self, output: Any) -> list[tuple[str, Tensor]]:
        """The chosen tensors in what a model returned, with their paths.

        Raises ``ValueError`` where the function does.
        """
        if self.function is None:
            tops = top_level(output)
            return [(path, tensor) for path, tensor in named_tensors(output) if self._chooses(path, tops)]
        try:
            chosen = self.function(output)
        except Exception as error:  # anything that the user's function raises
            raise ValueError(
                f"outputs={_called(self.function)}: it raised {type(error).__name__}: {error}; it is given "
                f"what the model returns, {_shown(top_level(output))}"
            ) from error
        if not tensors_in(chosen):
            raise ValueError(f"outputs={_called(self.function)}: it returned no tensor, but {type(chosen).__name__}")
        return [(f"{_called(self.function)} {path}".rstrip(), tensor) for path, tensor in named_tensors(chosen)]

    def check(self, graphs: Sequence[Graph]) -> None:
        """``ValueError`` for an entry that no example's output has, and an example that has none."""
        found = dict.fromkeys(top for graph in graphs for top in graph.top_level)
        for entry in self.entries or ():
            alone = OutputChoice((entry,))
            if not any(alone._chooses(path, graph.top_level) for graph in graphs for path in graph.outputs):
                raise ValueError(f"outputs={entry!r}: no tensor is called so or stands there; {_shown(tuple(found))}")
        for number, graph in enumerate(graphs):
            if self.entries is not None and not graph.chosen:
                raise ValueError(
                    f"outputs={list(self.entries)}: example {number} returns none of them; {_shown(graph.top_level)}"
                )

    def _chooses(self, path: str, tops: Sequence[str]) -> bool:
        if self.entries is None:
            return True
        names = [_name(entry, tops) for entry in self.entries]
        return any(name is not None and (path == name or path.startswith(f"{name}.")) for name in names)


def _name(entry: str | int, tops: Sequence[str]) -> str | None:
    if isinstance(entry, str):
        return entry
    return tops[entry] if -len(tops) <= entry < len(tops) else None


def _called(function: Callable[[Any], Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _shown(tops: Sequence[str]) -> str:
    return "the model returns one tensor" if tuple(tops) == ("",) else f"the model returns {', '.join(tops)}"
