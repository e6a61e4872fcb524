"""The calibration on its way through a model: what each batch has become before the block that is next."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.models import evaluating
from sparselab.layerwise.chain import Chain, Past, stopping_at
from sparselab.layerwise.groups import Calls, Group
from sparselab.layerwise.settled import Settled
from sparselab.statistics import PositionMask, Statistic, Statistics, collect
from sparselab.statistics.layers import Given, WeightUse, weight_uses


def few_of(batches: Sequence[Any]) -> int:
    """On how many of the ``batches``, the first ones, errors are measured: an eighth, at least one."""
    return max(1, len(batches) // 8)


@dataclass(eq=False)
class Stream:
    """``batches`` on their way through the blocks of ``chain``.

    ``past`` has for each batch what the blocks that it has passed returned. A stream passes a block
    with the weights that the block has at that moment, or had when what is ``settled`` was kept.
    """

    chain: Chain
    batches: Sequence[Any]
    mask: PositionMask | None = None
    past: list[Past] = field(default_factory=list)
    settled: Settled | None = None

    def __post_init__(self) -> None:
        self.past = self.past or [Past() for _ in self.batches]

    @property
    def number(self) -> int:
        """The number of the block that is next."""
        return len(self.past[0].shapes)

    def first(self, count: int) -> Stream:
        """The first ``count`` batches, where they are now."""
        return Stream(self.chain, self.batches[:count], self.mask, self.past[:count])

    def settle(self) -> None:
        """Keep what parts of the next block return, as passes that are told what is ``pending`` come by."""
        self.settled = Settled.of(self.chain.blocks[self.number].module)

    @contextmanager
    def _running(self, number: int, pending: Iterable[nn.Module], watched: Iterable[nn.Module] = ()) -> Iterator[None]:
        with nullcontext() if self.settled is None else self.settled.running(number, pending, watched):
            yield

    def collect(
        self,
        names: Sequence[str],
        kinds: Sequence[type[Statistic]],
        last: nn.Module | None = None,
        *,
        passing: bool = False,
        pending: Iterable[nn.Module] = (),
        watched: Iterable[nn.Module] = (),
    ) -> Statistics:
        """Statistics of what the weights called ``names``, of the next block, are given.

        Each pass ends when the module ``last`` is called, if given. With ``passing`` the stream is
        behind the block afterwards. Layers that are ``pending`` are yet to change, and
        nothing but the inputs of those that are ``watched`` is asked for (``Settled.running``).
        """
        numbers = itertools.count()
        next_block = self.number

        def forward(model: nn.Module, batch: Any) -> None:
            number = next(numbers)
            with nullcontext() if last is None else stopping_at(last), self._running(number, pending, watched):
                output = self.chain.run(next_block, batch, self.past[number])
            if passing:
                self.past[number] = self.past[number].after(output)

        return collect(
            self.chain.model, self.batches, kinds, layers=names, mask=self.mask, forward=forward, progress=False
        )

    def given(
        self,
        number: int,
        name: str,
        last: nn.Module | None,
        pending: Iterable[nn.Module] = (),
        watched: Iterable[nn.Module] = (),
    ) -> list[Given]:
        """What the weight called ``name``, of the next block, is given in each call for the batch of that ``number``."""
        found: list[Given] = []
        here = slice(number, number + 1)
        alone = Stream(self.chain, self.batches[here], self.mask, self.past[here])
        with self._running(number, pending, watched):
            alone.collect([name], [_noting(found)], last)
        return found

    def advance(self) -> None:
        """Pass the next block; nothing of it is pending any more."""
        with evaluating(self.chain.model), torch.no_grad():
            next_block = self.number
            for number, batch in enumerate(self.batches):
                with self._running(number, ()):
                    output = self.chain.run(next_block, batch, self.past[number])
                self.past[number] = self.past[number].after(output)
        self.settled = None

    def groups(self, names: Sequence[str]) -> list[Group]:
        """The weights called ``names``, of the next block, in the order in which the first batch needs them.

        Those that it does not reach come last, together.
        """
        uses = [use for use in weight_uses(self.chain.model) if use.name in set(names)]
        calls = Calls()
        with evaluating(self.chain.model), torch.no_grad(), calls.watching(uses):
            self.chain.run(self.number, self.batches[0], self.past[0])
        groups = calls.groups()
        rest = tuple(name for name in names if not any(name in group.names for group in groups))
        return [*groups, *([Group(rest, None)] if rest else [])]


def _noting(found: list[Given]) -> type[Any]:
    """A kind of statistics that puts what a weight is given in each call into ``found``, and sums nothing up."""

    class Noted:
        @classmethod
        def bytes_of(cls, layer: WeightUse, dtype: torch.dtype) -> int:
            return 0

        @classmethod
        def of_call(cls, given: Given, dtype: torch.dtype) -> tuple[Tensor, ...]:
            found.append(given)
            return ()

        @classmethod
        def of_sums(cls, sums: tuple[Tensor, ...], layer: WeightUse) -> None:
            return None

    return Noted
