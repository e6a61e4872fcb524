"""``reconstruct``: what pruning left is tuned, one block after the other, to what the dense block returned."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from sparselab.core.batches import calibration_batches
from sparselab.core.layers import layer_weights
from sparselab.core.models import as_eager, evaluating, unwrap
from sparselab.layerwise.chain import chain_by, without_cache
from sparselab.layerwise.stream import Stream, few_of
from sparselab.statistics import PositionMask
from sparselab.statistics.collecting import without_nested_tensors
from sparselab.statistics.positions import masks_of, padding

COLUMNS = ["block", "steps", "error_before_percent", "error_percent", "seconds"]


def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    *,
    steps: int = 64,
    learning_rate: float = 3e-4,
    blocks: str | Sequence[str] | None = "auto",
    mask: PositionMask | None = padding,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Tune what is left of a pruned ``model``, in place, block by block, to what the ``dense`` model's blocks return.

    Zeros stay: weights of layers that are 0 are 0 afterwards. All other parameters of a block are
    tuned by Adam, ``steps`` of it with a ``learning_rate`` that falls linearly to 0, each on one batch
    of the ``calibration`` in an order by ``seed``. A block is given what the tuned blocks before it
    return, and is to return what the dense block does in the dense model, so that it makes up for
    what was lost before it as well. What is made small is the squared error over the squared length
    of what is wanted, at each position by itself: a norm comes next, so that a long vector matters
    no more than a short one.

    ``dense`` is the model before it was pruned. Where ``sl.prune`` permuted channels, they have to be
    moved there as well: ``report.permutation.plan.apply(dense)``. ``blocks`` and ``mask``, which says
    which positions count, are as in ``sl.prune``; a block's output with other positions counts as a whole.

    The frame has one row for every block: ``block``, ``steps``, the error in percent before and after
    (over the first eighth of the batches) and ``seconds``. A block that would end worse is left as it
    was.

    Memory beside the models: what the last block returned for every batch, twice, and Adam's state
    and the gradients of one block. Deterministic on one machine with one number of threads. The
    models are in evaluation mode meanwhile. An interruption leaves a model with the same zeros.

    After Guo et al., "EBFT: Effective and Block-Wise Fine-Tuning for Sparse LLMs" (arXiv 2402.12419).
    Raises ``ValueError`` before anything changes for numbers out of range, no calibration, weights in
    half precision (their steps would be rounded away), and models whose blocks differ.

    >>> import copy, sparselab as sl
    >>> dense = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> model, batches = copy.deepcopy(dense), [torch.randn(64, 8)]
    >>> report = sl.prune(model, batches, pruner="magnitude", progress=False)
    >>> frame = reconstruct(model, dense, batches, steps=20, progress=False)
    >>> bool(frame["error_percent"][0] < frame["error_before_percent"][0]), int(model[0].weight.count_nonzero())
    (True, 64)
    """
    model, dense = (unwrap(as_eager(each, "reconstruct")) for each in (model, dense))
    batches = calibration_batches(calibration, "to reconstruct on")
    if steps < 1 or not learning_rate > 0:
        raise ValueError(f"steps={steps} must be at least 1, learning_rate={learning_rate} above 0")
    _require_pair(model, dense)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for each in (model, dense):
            for context in (evaluating(each), without_cache(each), without_nested_tensors(each)):
                stack.enter_context(context)
        chain = chain_by(model, blocks, batches[0])
        names = [block.name for block in chain.blocks]
        wanted = Stream(chain_by(dense, names if names != [""] else None, batches[0]), batches)
        given = Stream(chain, batches, mask)
        rows = []
        with tqdm(total=steps * len(names), unit="step", disable=not progress) as bar:
            for name in names:
                bar.set_description(name or "model")
                wanted.advance()
                tuning = _Tuning(given, [_main(past.last) for past in wanted.past], steps, learning_rate, seed, bar)
                rows.append((name, *tuning.run()))
    return pd.DataFrame(rows, columns=COLUMNS)


def _require_pair(model: nn.Module, dense: nn.Module) -> None:
    """Raise ``ValueError`` unless ``dense`` can be what ``model`` was, and both can be trained."""
    if model is dense:
        raise ValueError("dense is the pruned model itself: keep a copy.deepcopy(model) before pruning")
    theirs, ours = ({name: each.shape for name, each in part.named_parameters()} for part in (dense, model))
    for name in {**theirs, **ours}:
        if theirs.get(name) != ours.get(name):
            raise ValueError(f"dense is another model: {name!r} is {theirs.get(name)} there, {ours.get(name)} here")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize < 4:
            raise ValueError(
                f"{name!r} is {parameter.dtype}, in which small steps are rounded away: reconstruct model.float(), "
                "and go back afterwards"
            )


@dataclass(frozen=True, eq=False)
class _Tuning:
    """The tuning of the block that ``given`` has reached, to return what is ``wanted`` for each batch."""

    given: Stream
    wanted: Sequence[Tensor]
    steps: int
    learning_rate: float
    seed: int
    bar: Any

    def run(self) -> tuple[int, float, float, float]:
        """Tune the block and pass it: the steps, the error before and after in percent, the seconds."""
        start = time.perf_counter()
        parameters = self._parameters()
        old, past = [each.detach().clone() for each in parameters], list(self.given.past)
        before = self._error([self._output(number) for number in range(self.measured)])
        self._tune(parameters)
        self.given.advance()
        after = self._error([each.last for each in self.given.past[: self.measured]])
        if not after <= before:
            for parameter, value in zip(parameters, old, strict=True):
                parameter.copy_(value)
            self.given.past[:] = past
            self.given.advance()
            after = before
        return self.steps, 100 * before, 100 * after, time.perf_counter() - start

    @property
    def measured(self) -> int:
        """On how many of the batches errors are measured."""
        return few_of(self.wanted)

    def _tune(self, parameters: Sequence[nn.Parameter]) -> None:
        kept = self._kept()
        optimizer = torch.optim.Adam(parameters, self.learning_rate)
        with _alone(self.given.chain.model, parameters):
            for step, number in enumerate(_order(len(self.wanted), self.steps, self.seed)):
                optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.steps)
                with torch.enable_grad():
                    loss = self._loss(number, self._output(number))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                for weight, mask in kept:
                    if weight.grad is not None:
                        weight.grad.mul_(mask)
                optimizer.step()
                self.bar.update()

    def _module(self) -> nn.Module:
        return self.given.chain.blocks[self.given.number].module

    def _parameters(self) -> list[nn.Parameter]:
        """The parameters of the block that no other part of the model has too."""
        inside = {id(module) for module in self._module().modules()}
        others = {
            id(parameter)
            for module in self.given.chain.model.modules()
            if id(module) not in inside
            for parameter in module.parameters(recurse=False)
        }
        return [each for each in self._module().parameters() if each.is_floating_point() and id(each) not in others]

    def _kept(self) -> list[tuple[Tensor, Tensor]]:
        """The weights of the layers, with where they are not zero: Adam leaves alone what never has a gradient."""
        return [(layer.weight, layer.weight != 0) for layer in layer_weights(self._module())]

    def _output(self, number: int) -> Any:
        return self.given.chain.run(self.given.number, self.given.batches[number], self.given.past[number])

    def _error(self, outputs: Sequence[Any]) -> float:
        """The mean of the loss over batches, the first ones, of which the block returned ``outputs``."""
        return sum(float(self._loss(number, output)) for number, output in enumerate(outputs)) / len(outputs)

    def _loss(self, number: int, output: Any) -> Tensor:
        """The squared error over the squared length of what is wanted, the mean over positions that count."""
        found, wanted = _main(output), self.wanted[number]
        channels = 1 if wanted.ndim > 3 else -1
        lengths = wanted.square().sum(channels).clamp_min(torch.finfo(wanted.dtype).tiny)
        errors = (found - wanted).square().sum(channels) / lengths
        masks = () if self.given.mask is None else masks_of(self.given.batches[number], self.given.mask)
        counted = next((each.to(errors.device) for each in masks if each.shape == errors.shape), None)
        return errors.mean() if counted is None else errors[counted].mean()


def _main(output: Any) -> Tensor:
    """The first tensor of numbers that a block returned: its hidden states."""
    return next(each for each in tree_leaves(output) if isinstance(each, Tensor) and each.is_floating_point())


def _order(batches: int, steps: int, seed: int) -> Iterator[int]:
    """The numbers of the batches of all ``steps``: every epoch has an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps // batches)
    yield from torch.cat([torch.randperm(batches, generator=generator) for _ in range(epochs)])[:steps].tolist()


@contextmanager
def _alone(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Only ``parameters`` of ``model`` have gradients, while it lasts; none has any afterwards."""
    before = [(each, each.requires_grad) for each in model.parameters()]
    chosen = {id(each) for each in parameters}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)
        for parameter in parameters:
            parameter.grad = None
