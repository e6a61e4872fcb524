"""Which weights of a block are given the same, in the order in which the block needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparselab.statistics import WeightUse


@dataclass(frozen=True)
class Group:
    """The weights, by ``names``, whose layers are given the same.

    ``last`` is the module among theirs that is called last; ``None`` where a pass must not end
    there, because one of them may be called again.
    """

    names: tuple[str, ...]
    last: nn.Module | None


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of the layer of a weight. The inputs are held, so that no other tensor has their id."""

    use: WeightUse
    inputs: Any
    version: int | None

    def given_the_same(self, other: _Call) -> bool:
        """Whether both weights meet the same inputs: the same tensor, or other parts of one attention."""
        if self.use.is_packed or other.use.is_packed:  # the second projection of experts sees what the first makes
            return False
        if isinstance(self.use.module, nn.MultiheadAttention) or isinstance(other.use.module, nn.MultiheadAttention):
            after = ["out_proj" in call.use.own for call in (self, other)]
            return self.use.module is other.use.module and after[0] == after[1]
        return self.inputs is other.inputs and self.version == other.version


@dataclass
class Calls:
    """The calls of some layers in a forward pass, as ``watching`` saw them."""

    seen: list[_Call] = field(default_factory=list)

    @contextmanager
    def watching(self, uses: Iterable[WeightUse]) -> Iterator[None]:
        """Note every call of the layers of ``uses``, while it lasts."""
        with ExitStack() as stack:
            for use in uses:
                handle = use.module.register_forward_pre_hook(self._noting(use), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def groups(self) -> list[Group]:
        """The weights that were called, grouped, each group where the first of it was called."""
        names = [call.use.name for call in self.seen]
        found: list[list[_Call]] = []
        for number, call in enumerate(self.seen):
            if call.use.name in names[:number]:
                continue
            same = next((group for group in found if group[0].given_the_same(call)), None)
            if same is None:
                found.append([call])
            else:
                same.append(call)
        return [
            Group(
                tuple(call.use.name for call in group),
                group[-1].use.module if all(names.count(call.use.name) == 1 for call in group) else None,
            )
            for group in found
        ]

    def _noting(self, use: WeightUse) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            version = inputs._version if isinstance(inputs, Tensor) and not inputs.is_inference() else None
            self.seen.append(_Call(use, inputs, version))

        return note
