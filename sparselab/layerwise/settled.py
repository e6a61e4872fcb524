"""What parts of a block return in every later pass, since no weight to come changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Self, cast

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sparselab.layerwise.standing_in import answering, copy_of
from sparselab.statistics.layers import weight_uses

_MAX_BYTES = 2**28
"""How much may be kept; what does not fit is computed again."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """An ``output``, and the ``versions`` that its tensors had: whoever changes one in place raises its version.

    Without versions it is a copy, and copies of it are given.
    """

    output: Any
    versions: tuple[int, ...] | None

    @classmethod
    def of(cls, output: Any, copied: bool) -> Self:
        """``output`` itself, or ``copied``, as it also is where it could not say when it changes."""
        if copied or not all(map(_stands_alone, _tensors(output))):
            return cls(copy_of(output), None)
        return cls(output, _versions(output))

    def given(self) -> Any:
        """What the block may have."""
        return copy_of(self.output) if self.versions is None else self.output

    @property
    def is_changed(self) -> bool:
        """Whether the block has changed it in place."""
        return self.versions is not None and self.versions != _versions(self.output)

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        return sum(each.numel() * each.itemsize for each in _tensors(self.output))


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
    known: dict[tuple[int, nn.Module], _Kept] = field(default_factory=dict)
    several: set[nn.Module] = field(default_factory=set)
    """Parts that a pass calls more than once: one of their outputs does not stand for the others."""
    overwritten: set[nn.Module] = field(default_factory=set)
    """Parts whose outputs the block changes in place: those are kept as copies."""

    @classmethod
    def of(cls, block: nn.Module) -> Self:
        """Nothing kept yet of the modules inside ``block`` that have weights."""
        layers = {use.module for use in weight_uses(block)}
        return cls(tuple(each for each in block.modules() if each is not block and layers & {*each.modules()}))

    @contextmanager
    def running(self, number: int, pending: Iterable[nn.Module], watched: Iterable[nn.Module] = ()) -> Iterator[None]:
        """The block is run on the batch of that ``number``, and layers that are ``pending`` are yet to change.

        The pass is for what the ``watched`` of these are given, which is the same for all of them: what they return
        does not matter, so Linear layers return zeros.
        """
        this = _Pass(number, frozenset(pending), frozenset(each for each in watched if type(each) is nn.Linear))
        with ExitStack() as stack:
            for module in dict.fromkeys([*self.parts, *this.pending]):
                stack.enter_context(answering(module, self._answer(this, module)))
            yield
        for module in this.called:
            self._drop_if_changed((number, module))

    def _answer(self, this: _Pass, module: nn.Module) -> Callable[..., Any]:
        forward, key = module.forward, (this.number, module)

        @wraps(forward)
        def answer(*args: Any, **kwargs: Any) -> Any:
            this.changing |= module in this.pending
            if module in this.called:
                self.several.add(module)
                self._forget(key)
            this.called.add(module)
            if module in this.watched:
                return _zeros(cast("nn.Linear", module), *args, **kwargs)
            self._drop_if_changed(key)
            if key in self.known:
                return self.known[key].given()
            output = forward(*args, **kwargs)
            if not this.changing and module in self.parts and module not in self.several:
                self._keep(key, output)
            return output

        return answer

    def _keep(self, key: tuple[int, nn.Module], output: Any) -> None:
        number, module = key
        inside = [(number, each) for each in module.modules() if (number, each) in self.known]
        kept = _Kept.of(output, copied=module in self.overwritten)
        if kept.bytes > self.room + sum(self.known[each].bytes for each in inside):
            return
        for each in inside:
            self._forget(each)
        self.known[key] = kept
        self.room -= kept.bytes

    def _drop_if_changed(self, key: tuple[int, nn.Module]) -> None:
        if key in self.known and self.known[key].is_changed:
            self.overwritten.add(key[1])
            self._forget(key)

    def _forget(self, key: tuple[int, nn.Module]) -> None:
        if key in self.known:
            self.room += self.known.pop(key).bytes


@dataclass(eq=False)
class _Pass:
    """One pass over the batch of that ``number``: which layers it has ``called``, and whether a pending one was."""

    number: int
    pending: frozenset[nn.Module]
    watched: frozenset[nn.Module] = frozenset()
    called: set[nn.Module] = field(default_factory=set)
    changing: bool = False


def _tensors(output: Any) -> list[Tensor]:
    return [each for each in tree_flatten(output)[0] if isinstance(each, Tensor)]


def _versions(output: Any) -> tuple[int, ...]:
    return tuple(each._version for each in _tensors(output))


def _stands_alone(tensor: Tensor) -> bool:
    """Whether a tensor says when it changes, and holds no more memory than it needs."""
    return not tensor.is_inference() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize


def _zeros(layer: nn.Linear, given: Tensor) -> Tensor:
    """What stands for the output of a Linear ``layer``."""
    return given.new_zeros((*given.shape[:-1], layer.out_features))
