"""``prune``: the weights of a model pruned on calibration data, one block after the other."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparselab._version import __version__
from sparselab.core.fingerprint import digest
from sparselab.core.layers import LayerWeight, Names
from sparselab.core.models import evaluating, to_device, unwrap
from sparselab.layerwise.chain import Chain, chain_of, found_blocks, without_cache
from sparselab.layerwise.choosing import Chosen, chosen
from sparselab.layerwise.report import COLUMNS, PruneReport
from sparselab.layerwise.store import BlockStore, DoneBlock, Start
from sparselab.layerwise.stream import Stream
from sparselab.masks import AnyPattern, MaskCalculator, calculator
from sparselab.network.permuting import OWN_DTYPE, permute
from sparselab.network.plan import Plan
from sparselab.network.report import PermutationReport
from sparselab.permutation.strategy import STRATEGIES, Strategy
from sparselab.pruners import BySaliency, Pruned, Pruner, get_pruner
from sparselab.pruners.pruner import checked
from sparselab.saliency import ModelSaliency, from_statistics, needs
from sparselab.statistics import PositionMask, SecondMoments, Statistic, collect, reconstruction_error
from sparselab.statistics.collecting import without_nested_tensors
from sparselab.statistics.layers import weight_uses

_MEASURED = 8
"""Reconstruction errors are measured on one batch of so many, the first ones."""

_MAX_BYTES = 2**30
"""How much statistics that are only measured with may take at a time."""


def prune(
    model: nn.Module,
    calibration: Iterable[Any],
    pattern: AnyPattern = "2:4",
    *,
    pruner: str | Pruner = "sparsegpt",
    permutation: str | Strategy | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    blocks: str | Sequence[str] | None = "auto",
    sequential: bool = True,
    mask: PositionMask | None = "auto",
    device: torch.device | str | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> PruneReport:
    """Prune ``model``, in place, on ``calibration`` data, one block after the other.

    Any model: a decoder, an encoder, a vision transformer, a convolutional network. Afterwards it is
    a plain model with zeros in its weights: no hooks, no buffers. To train on under these zeros,
    give it to ``Sparsifier(model, pattern, permutation=None)``, whose masks are then where weights
    are not zero.

    ``calibration`` are batches, each what the model takes (a tensor, a tuple of positional or a dict
    of keyword arguments). ``mask`` says which positions count (``sparselab.statistics.collect``);
    ``"auto"`` is the ``attention_mask`` of batches that have one. ``pruner`` is a name with options
    (``"sparsegpt"``, ``"wanda"``, ``"ria"``, ``"magnitude"``) or an object. ``include`` and
    ``exclude`` are names of weights or modules, ``*`` and ``?`` allowed.

    ``blocks`` are names of modules that run one after the other, each on what the one before
    returned; ``"auto"``: the elements of the longest list of equal layers, where it holds most of
    the weights; ``None``: the whole model as one block. Weights outside the blocks stay as they are.

    ``sequential=True``: each weight is pruned by the statistics of the inputs that it has in the
    model as pruned so far, the weights before it in its own block included; those that are given
    the same together. ``sequential=False``: by those of the dense model.

    ``permutation`` (a search strategy: ``"auto"``) first puts the channels of the whole model in
    free orders (``sl.permute``), searched by the scores of the pruner, or by Wanda's where it has
    none; ``seed`` is that of the search. The first batch is the example that the model is traced on.

    With ``store``, a folder, every block is saved when it is done. A call with the same model (as it
    was, or as an interrupted call left it) and the same arguments goes on at the next block and ends
    with the same weights bit for bit. ``KeyboardInterrupt`` leaves the finished blocks pruned and the
    others as they were.

    Memory beside the model: what the last block returned for every batch, and of one block the
    weights and the statistics of weights that are given the same. Blocks compute on ``device``, one
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
    inner = unwrap(model)
    calculate, chosen_pruner = calculator(pattern), get_pruner(pruner)
    strategy = None if permutation is None else STRATEGIES.resolve(permutation)
    batches = list(calibration)
    if not batches:
        raise ValueError("no batch to calibrate on: the iterable was empty (used up?)")
    with ExitStack() as stack:
        for context in (torch.no_grad(), evaluating(inner), without_cache(inner), without_nested_tensors(inner)):
            stack.enter_context(context)
        chain = _chain(inner, blocks, batches[0], device)
        weights = chosen(chain, Names.of(include, exclude), calculate)
        positions = _positions(batches) if mask == "auto" else mask
        run = _Run(chain, weights, batches, calculate, chosen_pruner, sequential, positions)
        protocol = run.protocol(strategy, seed)
        journal = _Journal(inner, None if store is None else BlockStore(Path(store)))
        journal.open({**protocol, "calibration": digest(batches)})
        report = journal.begin(lambda: None if strategy is None else run.permute(strategy, seed))
        with tqdm(total=run.count, unit="weight", disable=not progress) as bar:
            rows, resumed = run.go(journal.store, bar)
    frame = _frame(weights, chain, rows, protocol)
    names = tuple(block.name for block in chain.blocks)
    return PruneReport(frame, protocol, names, report, resumed, time.perf_counter() - started)


def _chain(
    model: nn.Module, blocks: str | Sequence[str] | None, batch: Any, device: torch.device | str | None
) -> Chain:
    """The chain that ``blocks`` says; found ones that are none give way to the whole model."""
    if blocks != "auto":
        names = [blocks] if isinstance(blocks, str) else list(blocks or ())
        known = {name for name, _ in model.named_modules()}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"blocks names {unknown[0]!r}, which is no module of the model")
        return chain_of(model, names, batch, device)
    try:
        return chain_of(model, found_blocks(model), batch, device)
    except ValueError:
        return chain_of(model, (), batch, device)


def _positions(batches: Sequence[Any]) -> PositionMask | None:
    """The attention masks of ``batches``, where they hide anything."""
    found = [batch.get("attention_mask") if isinstance(batch, Mapping) else None for batch in batches]
    masks = [each for each in found if isinstance(each, Tensor) and each.ndim == 2 and not each.is_floating_point()]
    return "attention_mask" if len(masks) == len(found) and any(not bool(each.all()) for each in masks) else None


# ---------------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True, eq=False)
class _Run:
    """One call of ``prune``: what is pruned how, by which data."""

    chain: Chain
    weights: Sequence[Chosen]
    batches: Sequence[Any]
    calculate: MaskCalculator
    pruner: Pruner
    sequential: bool
    mask: PositionMask | None

    @property
    def count(self) -> int:
        """How many weights are pruned."""
        return sum(each.reason is None for each in self.weights)

    def protocol(self, strategy: Strategy | None, seed: int) -> dict[str, Any]:
        """What decides the result beside the model and the data."""
        return {
            "pattern": str(self.calculate),
            "pruner": _text(self.pruner),
            "options": str(self.pruner),
            "permutation": str(strategy),
            "sequential": self.sequential,
            "seed": seed,
            "batches": len(self.batches),
            "mask": self.mask if isinstance(self.mask, str) else digest(self.mask),
            "blocks": [block.name for block in self.chain.blocks],
            "weights": digest([each.layer.name for each in self.weights if each.reason is None]),
            "version": __version__,
        }

    def permute(self, strategy: Strategy, seed: int) -> PermutationReport:
        """Put the channels of the whole model in the orders that the pruner's scores ask for."""
        pattern = self.calculate.searched_as
        if pattern is None:
            raise ValueError(
                f"permutation: no order of channels is better than another for {self.calculate}; leave it out"
            )
        names = [each.layer.name for each in self.weights if each.reason is None]
        saliency = _orders_by(self.pruner)
        if isinstance(saliency, str) and (kind := needs(saliency)) is not None:
            found = collect(
                self.chain.model, self.batches, [kind], layers=names, mask=self.mask, forward=self.chain.whole
            )
            saliency = from_statistics(saliency, found)
        example = to_device(self.batches[0], next(self.chain.model.parameters()).device)
        return permute(
            self.chain.model,
            example,
            pattern,
            strategy=strategy,
            saliency=saliency,
            include=names,
            seed=seed,
            verify=OWN_DTYPE,  # a copy in float64 would be larger than all else here
        )

    def go(self, store: BlockStore | None, bar: Any) -> tuple[dict[str, dict[str, Any]], int]:
        """Prune all blocks that the ``store`` does not have; the rows of the frame by weight, and how many it had."""
        measured = max(1, len(self.batches) // _MEASURED)
        dense = Stream(self.chain, self.batches[: measured if self.sequential else None], self.mask)
        pruned = Stream(self.chain, self.batches[: None if self.sequential else measured], self.mask)
        resumed = 0 if store is None else store.done()
        rows: list[dict[str, Any]] = []
        for number, block in enumerate(self.chain.blocks):
            layers = [each.layer for each in self.weights if each.block == number and each.reason is None]
            bar.set_description(f"block {number + 1}/{len(self.chain.blocks)}")
            last = number + 1 == len(self.chain.blocks)
            with _on(block.module, self.chain.device):
                work = _BlockWork(self, layers, dense, pruned, measured, bar)
                if store is not None and number < resumed:
                    done = store.load(number)
                    work.pass_by(done, last or resumed == len(self.chain.blocks))
                else:
                    done = work.prune(last)
                    if store is not None:
                        store.save(number, done)
            rows += done.rows
        return {row["layer"]: row for row in rows}, resumed


@dataclass(frozen=True, eq=False)
class _BlockWork:
    """The pruning of the ``layers`` of the block that both streams have reached."""

    run: _Run
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

    def prune(self, last: bool) -> DoneBlock:
        """Prune the block. An interruption leaves it as it was."""
        old = {layer.name: layer.weight.detach().clone() for layer in self.layers}
        before = self.dense.first(self.measured)
        try:
            found = self._sequentially() if self.run.sequential else self._at_once(passing=not last)
            new = {name: each.pruned.weight for name, each in found.items()}
            self._put(old)
            dense_errors = self._errors(before, old, new)
            if self.run.sequential and not last:
                self.dense.advance()
            self._put(new)
            pruned_errors = self._errors(self.pruned.first(self.measured), old, new)
            if not last:
                self.pruned.advance()
        except BaseException:
            self._put(old)
            raise
        rows = [
            {
                "layer": name,
                "density": float(new[name].count_nonzero()) / new[name].numel(),
                "retained_percent": _retained(old[name], each.pruned.mask),
                "dense_error_percent": dense_errors.get(name, float("nan")),
                "pruned_error_percent": pruned_errors.get(name, float("nan")),
                "seconds": each.seconds,
            }
            for name, each in found.items()
        ]
        return DoneBlock({name: old[name] for name in new}, new, rows)

    def _sequentially(self) -> dict[str, _Found]:
        """Prune the weights in place, those that are given the same together, in the order of their calls."""
        found: dict[str, _Found] = {}
        for group in self.pruned.groups([layer.name for layer in self.layers]):
            statistics = self._statistics(self.pruned, group.names, group.last)
            for layer in self.layers:
                if layer.name in group.names and (each := self._prune(layer, statistics)) is not None:
                    found[layer.name] = each
            self._put({name: found[name].pruned.weight for name in group.names if name in found})
        return found

    def _at_once(self, *, passing: bool) -> dict[str, _Found]:
        """Prune the weights by what they are given in the dense model; it stays as it is."""
        found: dict[str, _Found] = {}
        kind = self.run.pruner.needs
        chunks = [] if kind is None else self._chunks(kind)
        for number, names in enumerate(chunks):
            statistics = self._statistics(self.dense, names, passing=passing and number + 1 == len(chunks))
            for layer in self.layers:
                if layer.name in names and (each := self._prune(layer, statistics)) is not None:
                    found[layer.name] = each
        if kind is None:
            found = {layer.name: each for layer in self.layers if (each := self._prune(layer, {})) is not None}
            if passing:
                self.dense.advance()
        return found

    def _statistics(
        self, stream: Stream, names: Sequence[str], last: nn.Module | None = None, *, passing: bool = False
    ) -> Mapping[str, Any]:
        kind = self.run.pruner.needs
        return {} if kind is None else stream.collect(names, [kind], last, passing=passing)[kind]

    def _prune(self, layer: LayerWeight, statistics: Mapping[str, Any]) -> _Found | None:
        """What the pruner makes of the weight; ``None`` where the data did not reach its layer."""
        weight, pruner = layer.weight.detach(), self.run.pruner
        if pruner.needs is not None and layer.name not in statistics:
            return None
        start = time.perf_counter()
        try:
            found = pruner(weight, self.run.calculate, statistics.get(layer.name), channel_dim=layer.channel_dim)
            found = checked(found, weight)
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error
        self.bar.set_postfix_str(layer.name, refresh=False)
        self.bar.update()
        return _Found(found, time.perf_counter() - start)

    def _errors(self, stream: Stream, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, float]:
        """The reconstruction error of every weight over what its layer is given now."""
        errors: dict[str, float] = {}
        for names in self._chunks(SecondMoments):
            found = stream.collect(names, [SecondMoments])[SecondMoments]
            errors |= {
                name: reconstruction_error(old[name], new[name], found[name])
                for name in names
                if name in found and name in new
            }
        return errors

    def _chunks(self, kind: type[Statistic]) -> Iterator[list[str]] | list[list[str]]:
        """The names of the weights, as many at a time as have statistics of ``kind`` in bounded memory."""
        wanted = {layer.name for layer in self.layers}
        sizes = {
            use.name: kind.bytes_of(use, torch.float32)
            for use in weight_uses(self.run.chain.model)
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
    plain = isinstance(pruner, BySaliency) and isinstance(pruner.saliency, str)
    return str(pruner.saliency) if plain else str(pruner)


def _retained(weight: Tensor, mask: Tensor) -> float:
    sizes = weight.abs().double()
    total = float(sizes.sum())
    return 100 * float(sizes[mask].sum()) / total if total else 100.0


# ------------------------------------------------------------------------------------------------------------- resuming


@dataclass(frozen=True, eq=False)
class _Journal:
    """What a ``store``, if there is one, knows of earlier calls for ``model``."""

    model: nn.Module
    store: BlockStore | None

    def open(self, run: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for the store of another run."""
        if self.store is not None:
            self.store.open(run)

    def begin(self, permuted: Any) -> PermutationReport | None:
        """Bring the model to where pruning starts: dense, and permuted.

        Raises ``ValueError``, the model being as before, where the store is of another model.
        """
        if self.store is None:
            return permuted()
        now, start = fingerprint(self.model), self.store.start
        if start is None:
            report: PermutationReport | None = permuted()
            plan = Plan() if report is None else report.plan
            self.store.save_start(Start(now, fingerprint(self.model), plan))
            return report
        if now == start.model:
            start.plan.apply(self.model)
            return None
        before = self._put_dense()
        if fingerprint(self.model) != start.permuted:
            self._put(before)
            raise ValueError(
                f"store={str(self.store.folder)!r} is of another model: other weights; name another folder"
            )
        return None

    def _put_dense(self) -> dict[str, Tensor]:
        """Undo what finished blocks of an earlier call left; the weights that were there."""
        assert self.store is not None
        dense: dict[str, Tensor] = {}
        for number in range(self.store.done()):
            dense |= self.store.load(number).dense
        known = dict(self.model.named_parameters(remove_duplicate=False))
        fitting = {name: each for name, each in dense.items() if name in known and known[name].shape == each.shape}
        before = {name: known[name].detach().clone() for name in fitting}
        self._put(fitting)
        return before

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        known = dict(self.model.named_parameters(remove_duplicate=False))
        for name, weight in weights.items():
            known[name].detach().copy_(weight)


def fingerprint(model: nn.Module) -> str:
    """A hash of every parameter and buffer, names, shapes, dtypes and values."""
    hashed = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return hashed.hexdigest()[:20]


# ---------------------------------------------------------------------------------------------------------------- frame


def _frame(
    weights: Sequence[Chosen], chain: Chain, rows: Mapping[str, Mapping[str, Any]], protocol: Mapping[str, Any]
) -> pd.DataFrame:
    """One row for every weight of the model."""
    unknown = float("nan")
    frame = pd.DataFrame(
        [
            {
                "layer": each.layer.name,
                "block": "" if each.block is None else chain.blocks[each.block].name,
                "shape": tuple(each.layer.weight.shape),
                "pruner": protocol["pruner"],
                "eligible": each.layer.name in rows,
                "reason": "" if each.layer.name in rows else each.reason or "the data did not reach its layer",
                "density": unknown,
                "retained_percent": 100.0,
                "dense_error_percent": unknown,
                "pruned_error_percent": unknown,
                "seconds": 0.0,
                **rows.get(each.layer.name, {}),
            }
            for each in weights
        ],
        columns=COLUMNS,
    )
    left = [not eligible for eligible in frame["eligible"]]
    frame.loc[left, "density"] = [
        float(each.layer.weight.detach().count_nonzero()) / each.layer.weight.numel()
        for each, out in zip(weights, left, strict=True)
        if out
    ]
    frame.attrs["protocol"] = dict(protocol)
    return frame
