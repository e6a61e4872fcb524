"""``prune``: the weights of a model pruned on calibration data, one block after the other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm.auto import tqdm

from sparselab._version import __version__
from sparselab.core.batches import calibration_batches, excerpt
from sparselab.core.fingerprint import digest
from sparselab.core.keywords import PERMUTATION, instead
from sparselab.core.layers import LayerWeight, Names
from sparselab.core.models import as_eager, device_of, evaluating, to_device, unwrap
from sparselab.layerwise.block import BlockWork, Method
from sparselab.layerwise.chain import Chain, chain_by, without_cache
from sparselab.layerwise.choosing import Chosen, chosen
from sparselab.layerwise.journal import begin
from sparselab.layerwise.report import PruneReport, frame_of
from sparselab.layerwise.store import BlockStore, DoneBlock
from sparselab.layerwise.stream import Stream, few_of
from sparselab.masks import AnyPattern, calculator
from sparselab.network.examples import as_example
from sparselab.network.orders import Orders, as_orders, require_strategy
from sparselab.network.outputs import Outputs
from sparselab.network.permuting import OWN_DTYPE, permute
from sparselab.network.reach import Reach
from sparselab.network.report import PermutationReport
from sparselab.permutation.objectives import OBJECTIVES, Objective
from sparselab.permutation.strategy import STRATEGIES, Strategy
from sparselab.pruners import BySaliency, Pruner, get_pruner
from sparselab.saliency import ModelSaliency, from_statistics, needs
from sparselab.statistics import PositionMask, SecondMoments, Statistics, collect
from sparselab.statistics.collecting import without_nested_tensors
from sparselab.statistics.positions import padding


@instead(strategy=PERMUTATION)
def prune(
    model: nn.Module,
    calibration: Iterable[Any],
    pattern: AnyPattern = "2:4",
    *,
    pruner: str | Pruner = "sparsegpt",
    permutation: str | Strategy | None = None,
    example_inputs: Any = None,
    outputs: Outputs | None = None,
    unreached: str = "refuse",
    objective: str | Objective | None = None,
    orders: str | Orders = "free",
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    blocks: str | Sequence[str] | None = "auto",
    sequential: bool = True,
    correction: float = 0.0,
    mask: PositionMask | None = padding,
    device: torch.device | str | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> PruneReport:
    """Prune ``model``, in place, on ``calibration`` data, one block after the other.

    Any model: a decoder, an encoder, a vision transformer, a convolutional network. Afterwards it is
    a plain model with zeros in its weights: no hooks, no buffers. To train on under these zeros,
    give it to ``Sparsifier(model, pattern, include=report.layers, permutation=None)``, whose masks
    are then where weights are not zero.

    ``calibration`` are batches, each what the model takes (a tensor, a tuple of positional or a dict
    of keyword arguments). ``mask`` says which positions count (``sparselab.statistics.collect``),
    by default the ``attention_mask`` of batches that have one. ``pruner`` is a name with options
    (``"sparsegpt"``, ``"wanda"``, ``"ria"``, ``"magnitude"``) or an object. ``include`` and
    ``exclude`` are names of weights or modules, ``*`` and ``?`` allowed.

    ``blocks`` are names of modules that run one after the other, each on what the one before
    returned; ``"auto"``: the elements of the longest list of equal layers, where it holds most of
    the weights; ``None``: the whole model as one block. Weights outside the blocks stay as they are.

    ``sequential=True``: each weight is pruned by the statistics of the inputs that it has in the
    model as pruned so far, the weights before it in its own block included; those that are given
    the same together. ``sequential=False``: by those of the dense model.

    ``correction``: before a weight is pruned it is changed so that it gives more of what it gave in
    the dense model, on the inputs that it has now: 0 not at all, 1 all the way
    (``sparselab.pruners.reconstruction.corrected``). So a block makes up for what pruning changed
    before it. It takes one more pass of the dense blocks for all of the calibration, and needs
    ``sequential``.

    ``permutation`` (a search strategy: ``"auto"``) first puts the channels of the whole model in
    free orders (``sl.permute``), searched by the scores of the pruner, or by Wanda's where it has
    none; ``seed`` is that of the search. The first batch is the example that the model is traced on,
    unless there are ``example_inputs``; they, ``outputs`` and ``unreached`` are as in ``sl.permute``.
    ``objective`` (``"error"``, ``"updated_error"``) has them searched for the error of what layers
    give instead, by second moments of the calibration data, which take ``4 d^2`` bytes for each
    different input of ``d`` channels.
    ``orders`` may be ``"gathered"``, so that layers re-index their inputs where others cannot follow, or
    ``"own"``: nothing moves, and each weight is pruned as if its channels stood in an order of its own.
    That is a limit which no kernel can run; a ``Sparsifier`` of such a model takes ``orders=report.own``.

    With ``store``, a folder, every block is saved when it is done. A call with the same model (as it
    was, or as an interrupted call left it) and the same arguments goes on at the next block and ends
    with the same weights bit for bit. ``KeyboardInterrupt`` leaves the finished blocks pruned and the
    others as they were.

    Memory beside the model: what the last block returned for every batch, and of one block the
    weights, the statistics of weights that are given the same, and up to 256 MiB of what parts of it
    returned, so that they are not run again for each of its weights. Blocks compute on ``device``, one
    at a time, where given, else where the model is. Deterministic on one machine with one number of
    threads. The model is in evaluation mode meanwhile, Hugging Face models without their cache.

    Raises ``ValueError`` before anything changes for unknown names, blocks that do not run one on
    what the other returned, a pattern that fits no weight, no calibration, and a ``store`` of
    another run; naming the layer, for weights and statistics that a pruner refuses.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> report = prune(model, [torch.randn(32, 8)], pruner="wanda", progress=False)
    >>> report.frame[["layer", "density"]].values.tolist()
    [['0.weight', 0.5], ['2.weight', 0.5]]
    """
    started = time.perf_counter()
    inner = unwrap(as_eager(model, "prune"))
    if correction and not (sequential and 0 < correction <= 1):
        raise ValueError(
            f"correction={correction:g} must lie between 0 and 1, and needs sequential=True: it is for what the "
            "blocks before have changed"
        )
    if correction and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError("correction: what it sums is not added over ranks; leave it out, or run one process")
    kind = as_orders(orders)
    require_strategy(kind, permutation)
    method = Method(get_pruner(pruner), calculator(pattern), sequential, correction)
    strategy = None if permutation is None else STRATEGIES.resolve(permutation)
    if strategy is None and objective is not None:
        raise ValueError(f"objective={objective!r} is what orders are searched for: give permutation='auto' too")
    if strategy is None and outputs is not None:
        raise ValueError(
            f"outputs={outputs!r} says what stays as it is where channels move: give permutation='auto' too"
        )
    searched = None if objective is None else OBJECTIVES.resolve(objective)
    traced = _Traced(example_inputs, Reach.of(outputs, unreached), outputs)
    wanted = None if strategy is None else _Orders(strategy, searched, seed, kind)
    batches = calibration_batches(calibration, "to calibrate on")
    with ExitStack() as stack:
        for context in (torch.no_grad(), evaluating(inner), without_cache(inner), without_nested_tensors(inner)):
            stack.enter_context(context)
        chain = chain_by(inner, blocks, batches[0], device)
        weights = chosen(chain, Names.of(include, exclude), method)
        run = _Run(chain, weights, batches, method, mask, traced)
        protocol = run.protocol(wanted, seed)
        blocks_done = None if store is None else BlockStore(Path(store))
        if blocks_done is not None:
            blocks_done.open({**protocol, "calibration": digest(batches)})
        begun = begin(inner, blocks_done, lambda: None if wanted is None else run.permute(wanted, progress))
        run = replace(run, method=replace(method, orders=begun.own))
        with tqdm(total=run.count, unit="weight", disable=not progress) as bar:
            rows, resumed = run.go(blocks_done, bar)
    frame = frame_of(weights, chain, rows, protocol)
    names = tuple(block.name for block in chain.blocks)
    return PruneReport(frame, protocol, names, begun.report, resumed, time.perf_counter() - started, begun.own)


# ---------------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class _Orders:
    """How the channels of the whole model are put in order first."""

    strategy: Strategy
    objective: Objective | None
    seed: int
    kind: Orders


@dataclass(frozen=True, eq=False)
class _Traced:
    """On what the model is traced where channels are permuted, and what has to stay as it is."""

    example_inputs: Any
    reach: Reach
    outputs: Outputs | None

    def examples(self, batches: Sequence[Any]) -> Any:
        """The examples: a short piece of the first of ``batches`` where none were given."""
        return as_example(excerpt(batches[0])) if self.example_inputs is None else self.example_inputs

    @property
    def digest(self) -> str:
        """What tells two of them apart."""
        return digest([self.example_inputs, self.outputs, self.reach.unreached])


@dataclass(frozen=True, eq=False)
class _Run:
    """One call of ``prune``: what is pruned how, by which data."""

    chain: Chain
    weights: Sequence[Chosen]
    batches: Sequence[Any]
    method: Method
    mask: PositionMask | None
    traced: _Traced

    @property
    def count(self) -> int:
        """How many weights are pruned."""
        return sum(each.reason is None for each in self.weights)

    def protocol(self, orders: _Orders | None, seed: int) -> dict[str, Any]:
        """What decides the result beside the model and the data."""
        return {
            "pattern": str(self.method.calculate),
            "pruner": _text(self.method.pruner),
            "pruner_options": str(self.method.pruner),
            "permutation": str(orders and orders.strategy),
            "objective": str(orders and orders.objective),
            "traced": self.traced.digest,
            "orders": str(orders and orders.kind),
            "sequential": self.method.sequential,
            "correction": self.method.correction,
            "seed": seed,
            "batches": len(self.batches),
            "mask": self.mask if self.mask is None or isinstance(self.mask, str) else digest(self.mask),
            "blocks": [block.name for block in self.chain.blocks],
            "weights": digest([each.layer.name for each in self.weights if each.reason is None]),
            "version": __version__,
        }

    def permute(self, orders: _Orders, progress: bool) -> PermutationReport:
        """Put the channels of the whole model in the orders that the objective, or the pruner's scores, ask for."""
        pattern = self.method.calculate.searched_as
        if pattern is None:
            raise ValueError(
                f"permutation: no order of channels is better than another for {self.method.calculate}; leave it out"
            )
        names = [each.layer.name for each in self.weights if each.reason is None]
        saliency = _orders_by(self.method.pruner) if orders.objective is None else "magnitude"
        moments = None
        if orders.objective is not None:
            moments = self._collected(SecondMoments, names, progress)[SecondMoments]
        elif isinstance(saliency, str) and (kind := needs(saliency)) is not None:
            saliency = from_statistics(saliency, self._collected(kind, names, progress))
        return permute(
            self.chain.model,
            to_device(self.traced.examples(self.batches), device_of(self.chain.model)),
            pattern,
            strategy=orders.strategy,
            saliency=saliency,
            objective=orders.objective,
            moments=moments,
            include=names,
            seed=orders.seed,
            verify=OWN_DTYPE,  # a copy in float64 would be larger than all else here
            outputs=self.traced.outputs,
            unreached=self.traced.reach.unreached,
            orders=orders.kind,
            progress=progress,
        )

    def _collected(self, kind: type[Any], names: list[str], progress: bool) -> Statistics:
        return collect(
            self.chain.model,
            self.batches,
            [kind],
            layers=names,
            mask=self.mask,
            forward=self.chain.whole,
            progress=progress,
        )

    def go(self, store: BlockStore | None, bar: Any) -> tuple[dict[str, dict[str, Any]], int]:
        """Prune all blocks that the ``store`` does not have; the rows of the frame by weight, and how many it had."""
        measured = few_of(self.batches)
        few = measured if self.method.measures_dense_only else None
        dense = Stream(self.chain, self.batches[:few], self.mask)
        pruned = Stream(self.chain, self.batches[: None if self.method.sequential else measured], self.mask)
        resumed = 0 if store is None else store.done()
        end = 1 + max(each.block for each in self.weights if each.block is not None and each.reason is None)
        rows: list[dict[str, Any]] = []
        for number, block in enumerate(self.chain.blocks[:end]):
            chosen_here = [each.layer for each in self.weights if each.block == number and each.reason is None]
            layers = [layer for layer in chosen_here if isinstance(layer, LayerWeight)]
            bar.set_description(f"block {number + 1}/{end}")
            with _on(block.module, self.chain.device):
                work = BlockWork(self.method, layers, dense, pruned, measured, bar)
                if store is not None and number < resumed:
                    done = store.load(number)
                    work.pass_by(done, last=resumed == end)
                else:
                    done = work.prune(number + 1 == end, _nowhere if store is None else partial(store.save, number))
            rows += done.rows
        return {row["layer"]: row for row in rows}, resumed


def _nowhere(done: DoneBlock) -> None:
    """Without a store nothing is saved."""


@contextmanager
def _on(module: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """``module`` is on ``device``, if given, while it lasts."""
    home = next((each.device for each in module.parameters()), None)
    if device is None or home is None:
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.to(home)


def _orders_by(pruner: Pruner) -> ModelSaliency:
    """The scores that orders are searched by: those of the pruner, else Wanda's where it prunes by data."""
    if isinstance(pruner, BySaliency):
        return pruner.saliency
    return "magnitude" if pruner.needs is None else "wanda"


def _text(pruner: Pruner) -> str:
    """What tables call a pruner: the name of its saliency, else what it says of itself."""
    if isinstance(pruner, BySaliency) and isinstance(pruner.saliency, str):
        return pruner.saliency
    return str(pruner)
