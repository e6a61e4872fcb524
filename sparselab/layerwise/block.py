"""One block: its weights pruned, their errors measured, and the calibration passed on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core import measures
from sparselab.core.channel_order import ChannelOrder
from sparselab.core.interrupts import interrupted_afterwards
from sparselab.core.layers import LayerWeight
from sparselab.layerwise.groups import Group
from sparselab.layerwise.store import DoneBlock
from sparselab.layerwise.stream import Stream
from sparselab.masks import MaskCalculator
from sparselab.pruners import Pruned, Pruner
from sparselab.pruners.in_order import InOrder
from sparselab.pruners.pruner import checked
from sparselab.pruners.reconstruction import corrected
from sparselab.statistics import SecondMoments, Statistic, cross_moments, reconstruction_error
from sparselab.statistics.layers import weight_uses

_MAX_BYTES = 2**30
"""How much the statistics may take of weights that need not be looked at together."""


@dataclass(frozen=True, eq=False)
class Method:
    """How weights are pruned: by which ``pruner``, whose masks ``calculate`` chooses.

    ``sequential``: by what they are given in the pruned model, else by that in the dense one.
    ``correction``: how far each weight is first changed toward its outputs in the dense model.
    Weights that have an order of their own among ``orders``, by name, are pruned in it.
    """

    pruner: Pruner
    calculate: MaskCalculator
    sequential: bool
    correction: float = 0.0
    orders: Mapping[str, ChannelOrder] = field(default_factory=dict)

    def pruner_of(self, layer: LayerWeight) -> Pruner:
        """What prunes the weight of ``layer``."""
        order = self.orders.get(layer.name)
        return self.pruner if order is None else InOrder(self.pruner, order)

    @property
    def measures_dense_only(self) -> bool:
        """Whether the dense model is run for the errors alone, which takes few batches."""
        return self.sequential and not self.correction

    @property
    def kinds(self) -> list[type[Any]]:
        """The kinds of statistics that it takes."""
        needs = self.pruner.needs
        wanted = ([] if needs is None else [needs]) + ([SecondMoments] if self.correction else [])
        return list(dict.fromkeys(wanted))


@dataclass(frozen=True, eq=False)
class BlockWork:
    """The pruning of the ``layers`` of the block that both streams have reached."""

    method: Method
    layers: Sequence[LayerWeight]
    dense: Stream
    pruned: Stream
    measured: int
    bar: Any

    def pass_by(self, done: DoneBlock, last: bool) -> None:
        """Give the block the weights that it had when it was ``done``, and let the streams pass it."""
        self._put(done.dense)
        if not last:
            self.dense.advance()
        self._put(done.pruned)
        if not last:
            self.pruned.advance()
        self.bar.update(len(self.layers))

    def prune(self, last: bool, save: Callable[[DoneBlock], None]) -> DoneBlock:
        """Prune the block, and have it saved. An interruption leaves it as it was, or saved."""
        old = {layer.name: layer.weight.detach().clone() for layer in self.layers}
        before = self.dense.first(self.measured)
        try:
            found = self._sequentially(old) if self.method.sequential else self._at_once(passing=not last)
            new = {name: each.pruned.weight for name, each in found.items()}
            self._put(old)
            few = self.method.measures_dense_only
            dense_errors = self._errors(self.dense if few else before, old, new, passing=few and not last)
            if self.method.sequential and not few and not last:
                self.dense.advance()
            self._put(new)
            pruned_errors = self._errors(self.pruned.first(self.measured), old, new)
            if not last:
                self.pruned.advance()
            errors = {name: (dense_errors.get(name, math.nan), pruned_errors.get(name, math.nan)) for name in new}
            rows = [_row(name, old[name], found[name], *errors[name]) for name in new]
            done = DoneBlock({name: old[name] for name in new}, new, rows)
            with interrupted_afterwards():
                save(done)
        except BaseException:
            self._put(old)
            raise
        return done

    def _sequentially(self, old: Mapping[str, Tensor]) -> dict[str, _Found]:
        """Prune the weights in place, those that are given the same together, in the order of their calls."""
        found: dict[str, _Found] = {}
        groups = self.pruned.groups([layer.name for layer in self.layers])
        self.pruned.settle()
        if self.method.correction:
            self.dense.settle()
        for number, group in enumerate(groups):
            pending = self._modules(name for each in groups[number:] for name in each.names)
            kinds = self.method.kinds
            watched = [] if group.last is None else self._modules(group.names)
            statistics = (
                self.pruned.collect(group.names, kinds, group.last, pending=pending, watched=watched) if kinds else {}
            )
            new = {name: each.pruned.weight for name, each in found.items()}
            cross = self._cross_moments(group, pending, watched, old, new)
            for layer in self.layers:
                if layer.name in group.names and (each := self._prune(layer, statistics, cross)) is not None:
                    found[layer.name] = each
            self._put({name: found[name].pruned.weight for name in group.names if name in found})
        return found

    def _modules(self, names: Iterable[str]) -> list[nn.Module]:
        """The modules of the layers of the weights called ``names``."""
        wanted = {*names}
        return [use.module for use in weight_uses(self.dense.chain.model) if use.name in wanted]

    def _cross_moments(
        self,
        group: Group,
        pending: Sequence[nn.Module],
        watched: Sequence[nn.Module],
        old: Mapping[str, Tensor],
        new: Mapping[str, Tensor],
    ) -> Tensor | None:
        """``sum of x y^T`` of what the group is given in the dense and in the pruned model; ``None`` if not needed.

        Batch by batch, so that no more than one is in memory; none for weights that the first batch does not reach.
        """
        if not self.method.correction or group.last is None:
            return None
        total: Tensor | None = None
        for number in range(len(self.dense.batches)):
            self._put(old)
            dense = self.dense.given(number, group.names[0], group.last, pending, watched)
            self._put(new)
            pruned = self.pruned.given(number, group.names[0], group.last, pending, watched)
            for one, other in zip(dense, pruned, strict=True):
                found = cross_moments(one, other)
                total = found if total is None else total.add_(found)
        return total

    def _at_once(self, *, passing: bool) -> dict[str, _Found]:
        """Prune the weights by what they are given in the dense model; it stays as it is."""
        found: dict[str, _Found] = {}
        kind = self.method.pruner.needs
        every = [layer.name for layer in self.layers]
        chunks = [every] if kind is None else self._chunks(kind)
        for number, names in enumerate(chunks):
            behind = passing and number + 1 == len(chunks)
            statistics = self.dense.collect(names, self.method.kinds, passing=behind) if self.method.kinds else {}
            for layer in self.layers:
                if layer.name in names and (each := self._prune(layer, statistics)) is not None:
                    found[layer.name] = each
        if passing and (kind is None or not chunks):
            self.dense.advance()
        return found

    def _prune(
        self, layer: LayerWeight, statistics: Mapping[type[Any], Mapping[str, Any]], cross: Tensor | None = None
    ) -> _Found | None:
        """What the pruner makes of the weight; ``None`` where the data did not reach its layer."""
        weight, pruner = layer.weight.detach(), self.method.pruner_of(layer)
        if any(layer.name not in statistics[kind] for kind in self.method.kinds):
            return None
        statistic = None if pruner.needs is None else statistics[pruner.needs][layer.name]
        start = time.perf_counter()
        try:
            if cross is not None:
                moments = statistics[SecondMoments][layer.name]
                weight = corrected(weight, moments, cross, share=self.method.correction)
            found = pruner(weight, self.method.calculate, statistic, channel_dim=layer.channel_dim)
            found = checked(found, weight)
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error
        self.bar.set_postfix_str(layer.name, refresh=False)
        self.bar.update()
        return _Found(found, time.perf_counter() - start)

    def _errors(
        self, stream: Stream, old: Mapping[str, Tensor], new: Mapping[str, Tensor], *, passing: bool = False
    ) -> dict[str, float]:
        """The reconstruction error of every weight over what its layer is given now; ``passing``: the stream moves on."""
        errors: dict[str, float] = {}
        chunks = self._chunks(SecondMoments)
        for number, names in enumerate(chunks):
            behind = passing and number + 1 == len(chunks)
            found = stream.collect(names, [SecondMoments], passing=behind)[SecondMoments]
            errors |= {
                name: reconstruction_error(old[name], new[name], found[name])
                for name in names
                if name in found and name in new
            }
        if passing and not chunks:
            stream.advance()
        return errors

    def _chunks(self, kind: type[Statistic]) -> list[list[str]]:
        """The names of the weights, as many at a time as have statistics of ``kind`` in bounded memory."""
        wanted = {layer.name for layer in self.layers}
        sizes = {
            use.name: kind.bytes_of(use, torch.float32)
            for use in weight_uses(self.dense.chain.model)
            if use.name in wanted
        }
        chunks: list[list[str]] = []
        room = 0
        for name, size in sizes.items():
            if not chunks or size > room:
                chunks.append([])
                room = _MAX_BYTES
            chunks[-1].append(name)
            room -= size
        return chunks

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        """Give the layers these weights."""
        for layer in self.layers:
            if layer.name in weights:
                layer.weight.detach().copy_(weights[layer.name])


@dataclass(frozen=True, eq=False)
class _Found:
    """What a pruner made of a weight, and how long it took."""

    pruned: Pruned
    seconds: float


def _row(name: str, old: Tensor, found: _Found, dense_error: float, pruned_error: float) -> dict[str, Any]:
    """What the frame says of a pruned weight."""
    new = found.pruned.weight
    return {
        "layer": name,
        "density": measures.density(new),
        "magnitude": float(old.abs().sum(dtype=torch.float64)),
        "retained_percent": measures.retained_percent(old, found.pruned.mask),
        "dense_error_percent": dense_error,
        "pruned_error_percent": pruned_error,
        "seconds": found.seconds,
    }
