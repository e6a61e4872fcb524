"""What parts of a block return in every later pass, since no weight to come changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Self

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sparselab.layerwise.standing_in import answering, copy_of
from sparselab.statistics.layers import weight_uses

_MAX_BYTES = 2**28
"""How much may be kept; what does not fit is computed again."""


@dataclass(eq=False)
class Settled:
    """What ``parts`` of a block returned for each batch, where that is settled.

    Weights are pruned group after group, each after a pass over the calibration. All that runs in a
    pass before the first weight that is yet to be pruned gives the same in the passes to come, so
    it is kept, up to ``room`` bytes, and not computed again. A part that is kept stands for those
    inside it.
    """

    parts: tuple[nn.Module, ...]
    room: int = _MAX_BYTES
    known: dict[tuple[int, nn.Module], Any] = field(default_factory=dict)
    several: set[nn.Module] = field(default_factory=set)
    """Parts that a pass calls more than once: one of their outputs does not stand for the others."""

    @classmethod
    def of(cls, block: nn.Module) -> Self:
        """Nothing kept yet of the modules inside ``block`` that have weights."""
        layers = {use.module for use in weight_uses(block)}
        return cls(tuple(each for each in block.modules() if each is not block and layers & {*each.modules()}))

    @contextmanager
    def running(self, number: int, pending: Iterable[nn.Module]) -> Iterator[None]:
        """The block is run on the batch of that ``number``, and layers that are ``pending`` are yet to change."""
        this = _Pass(number, frozenset(pending))
        with ExitStack() as stack:
            for module in dict.fromkeys([*self.parts, *this.pending]):
                stack.enter_context(answering(module, self._answer(this, module)))
            yield

    def _answer(self, this: _Pass, module: nn.Module) -> Callable[..., Any]:
        forward, key = module.forward, (this.number, module)

        @wraps(forward)
        def answer(*args: Any, **kwargs: Any) -> Any:
            this.changing |= module in this.pending
            if module in this.called:
                self.several.add(module)
                self._forget(key)
            this.called.add(module)
            if key in self.known:
                return copy_of(self.known[key])
            output = forward(*args, **kwargs)
            if not this.changing and module in self.parts and module not in self.several:
                self._keep(key, output)
            return output

        return answer

    def _keep(self, key: tuple[int, nn.Module], output: Any) -> None:
        number, module = key
        inside = [(number, each) for each in module.modules() if (number, each) in self.known]
        if _bytes(output) > self.room + sum(_bytes(self.known[each]) for each in inside):
            return
        for each in inside:
            self._forget(each)
        self.known[key] = copy_of(output)
        self.room -= _bytes(output)

    def _forget(self, key: tuple[int, nn.Module]) -> None:
        if key in self.known:
            self.room += _bytes(self.known.pop(key))


@dataclass(eq=False)
class _Pass:
    """One pass over the batch of that ``number``: which layers it has ``called``, and whether a pending one was."""

    number: int
    pending: frozenset[nn.Module]
    called: set[nn.Module] = field(default_factory=set)
    changing: bool = False


def _bytes(output: Any) -> int:
    return sum(each.numel() * each.itemsize for each in tree_flatten(output)[0] if isinstance(each, Tensor))
