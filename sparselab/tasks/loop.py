"""The one training loop: seeded, resumable, interruptible. And evaluation."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sparselab.core.models import as_module, cuda_devices, device_of, evaluating, running, to_device
from sparselab.metrics import measure
from sparselab.metrics.metric import Batch, as_metrics
from sparselab.saliency import ActivationNorms
from sparselab.statistics import InputNorms, Statistic, Statistics, collect
from sparselab.tasks.optimizers import OPTIMIZERS, learning_rate_factor
from sparselab.tasks.task import Recipe, Task
from sparselab.trackers.tracker import Tracker
from sparselab.training.batchnorm import recalibrate_batchnorm
from sparselab.training.sparsifier import Sparsifier


@dataclass(frozen=True)
class Trained:
    """What a run of ``train`` was: ``steps`` in all, of which ``resumed_at`` were done before, and its ``seconds``."""

    steps: int
    resumed_at: int
    seconds: float


def train(
    task: Task,
    model: nn.Module,
    *,
    recipe: Recipe | None = None,
    steps: int | None = None,
    seed: int = 0,
    sparsifier: Sparsifier | None = None,
    trackers: Sequence[Tracker] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    progress: bool = False,
) -> Trained:
    """Train ``model``, in place, by ``recipe`` (default: the task's own), for ``steps`` (default: the recipe's epochs).

    The optimizer is made here; ``sparsifier`` and ``trackers`` are attached to it while it lasts, and a sparsifier that has
    not computed masks yet does so first. ``seed`` decides the order of the examples, augmentation and dropout, whatever the state of
    torch's global generators, which are left as they were. On one machine with the same number of threads the result is
    the same bit for bit.

    With ``checkpoint`` everything is saved there every ``checkpoint_every`` steps, and on Ctrl-C when the step under way
    is done (a second Ctrl-C does not wait). A call that finds the file goes on from it: the result is the same as that of
    an uninterrupted run. The file is removed at the end.

    Raises ``ValueError`` for an unknown optimizer or learning rate, numbers out of range, no examples, and a checkpoint of
    another run (task, recipe, pattern, schedule or layers), and ``FloatingPointError`` when the loss is no longer finite.
    """
    recipe = recipe or task.recipe
    total = recipe.steps(len(task.train_data)) if steps is None else steps
    learning_rate_factor(recipe.learning_rate, 0.0)
    if total < 0 or checkpoint_every < 1:
        raise ValueError(f"steps={total} must be at least 0, checkpoint_every={checkpoint_every} at least 1")
    if not len(task.train_data):
        raise ValueError(f"task {task.name!r} has no examples to train on")
    weights = [parameter for parameter in as_module(model, "train").parameters() if parameter.requires_grad]
    if not weights:
        raise ValueError(
            f"task {task.name!r}: no parameter of this {type(model).__name__} requires a gradient, so there is "
            "nothing to train: requires_grad_() thaws a frozen model"
        )
    optimizer = OPTIMIZERS.resolve(recipe.optimizer)(weights)
    run = _Run(task, model, recipe, total, seed, optimizer, sparsifier, tuple(trackers))
    file = None if checkpoint is None else Path(checkpoint)
    with run.attached(), _own_randomness(seed, model):
        resumed = run.start(file)
        start = time.perf_counter()
        run.go(resumed, file, checkpoint_every, progress)
    if file is not None:
        file.unlink(missing_ok=True)
    return Trained(total, resumed, time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of the loop; all that changes is in the objects that it holds."""

    task: Task
    model: nn.Module
    recipe: Recipe
    total: int
    seed: int
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier | None
    trackers: tuple[Tracker, ...]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Sparsifier and trackers watch the optimizer for the block; then they can be given to another run."""
        if self.sparsifier is not None:
            self.sparsifier.attach(self.optimizer)
        for tracker in self.trackers:
            tracker.attach(self.optimizer)
        try:
            yield
        finally:
            for tracker in self.trackers:
                tracker.detach()
            if self.sparsifier is not None:
                self.sparsifier.detach(self.optimizer)

    def start(self, file: Path | None) -> int:
        """How many steps are done already, by the checkpoint in ``file``; without one, masks are computed if need be."""
        if file is not None and file.exists() and (resumed := self.load(file)):
            return resumed
        sparsifier = self.sparsifier
        if sparsifier is not None and sparsifier.step is None and not sparsifier.weights.any_masked():
            sparsifier.compute()
        return 0

    def go(self, first: int, file: Path | None, every: int, progress: bool) -> None:
        """Steps ``first`` to ``total``."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        device = device_of(self.model)
        with running(self.model, "train()", "To be trained it has to go into training mode"):
            self.model.train()
        bar = tqdm(total=self.total, initial=first, desc=self.task.name, disable=not progress, leave=False)
        with bar, _interrupted_between_steps() as interrupted:
            for done in range(first, self.total):
                self._set_rates(rates, done)
                self._step(to_device(self._batch(done), device), done)
                bar.update()
                if file is not None and (interrupted.is_set() or (done + 1) % every == 0):
                    self.save(file, done + 1, rates)
                if interrupted.is_set():
                    raise KeyboardInterrupt

    def _set_rates(self, rates: Sequence[float], done: int) -> None:
        factor = learning_rate_factor(self.recipe.learning_rate, done / self.total, self.recipe.warmup)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate * factor

    def _step(self, batch: Batch, done: int) -> None:
        loss = self.task.loss(self.model, batch)
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"{self.task.name}: the loss is {float(loss.detach())} at step {done} of {self.total}; lower the learning rate"
            )
        if not loss.requires_grad:
            raise ValueError(
                f"{self.task.name}: the loss does not depend on a parameter that requires a gradient, so no step can "
                "be taken: is the model run without gradients, or frozen where it matters?"
            )
        self.optimizer.zero_grad()
        with running(
            self.model, f"step {done}", "Its parameters have to be plain tensors, which an optimizer can move"
        ):
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def _batch(self, done: int) -> Batch:
        """Batch number ``done``: each epoch has an order of its own, which follows from the seed."""
        size = self.recipe.batch_size
        per_epoch = -(-len(self.task.train_data) // size)
        epoch, place = divmod(done, per_epoch)
        order = _order(len(self.task.train_data), self.seed, epoch)
        batch = self.task.train_data[order[place * size : (place + 1) * size]]
        if self.task.augment is None:
            return batch
        return self.task.augment(batch, torch.Generator().manual_seed(_mixed(self.seed, done, 1)))

    def save(self, file: Path, done: int, rates: Sequence[float]) -> None:
        """Everything that it takes to go on, replaced only when complete."""
        state = {
            "run": self._identity(),
            "done": done,
            "rates": list(rates),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": None if self.sparsifier is None else self.sparsifier.state_dict(),
            "trackers": [tracker.state_dict() for tracker in self.trackers],
            "random": torch.get_rng_state(),
            "cuda_random": {index: torch.cuda.get_rng_state(index) for index in cuda_devices(self.model)},
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        torch.save(state, partial)
        partial.replace(file)

    def load(self, file: Path) -> int:
        """Go back to where ``file`` was saved; how many steps were done."""
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if state.get("run") != self._identity():
            raise ValueError(f"{file} is the checkpoint of another run ({state.get('run')}); delete it or name another")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, state["rates"]):
            group["lr"] = rate
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        for tracker, tracked in zip(self.trackers, state["trackers"]):
            tracker.load_state_dict(tracked)
        torch.set_rng_state(state["random"])
        for index in set(cuda_devices(self.model)) & set(state.get("cuda_random", ())):
            torch.cuda.set_rng_state(state["cuda_random"][index], index)
        return int(state["done"])

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "version": self.task.version,
            "recipe": repr(self.recipe),
            "steps": self.total,
            "seed": self.seed,
            "sparse": self.sparsifier is not None and self.sparsifier.describe(),
            "trackers": len(self.trackers),
        }


def evaluate(
    task: Task, model: nn.Module, *, batch_size: int | None = None, progress: bool = False
) -> dict[str, float]:
    """The task's metrics on its evaluation data, the headline first. The model's mode is as before afterwards.

    The network runs once on every batch, of the task's ``evaluation_batch`` unless ``batch_size`` says
    otherwise, however many metrics look at its answer.
    """
    device = device_of(as_module(model, "evaluate"))
    total = len(task.eval_data)
    if not total:
        raise ValueError(f"task {task.name!r} has no examples to evaluate on")
    bar = tqdm(total=total, desc="evaluating", disable=not progress, leave=False)

    def batches() -> Iterator[tuple[Batch, int]]:
        for indices in torch.split(torch.arange(total), batch_size or task.evaluation_batch):
            yield to_device(task.eval_data[indices], device), len(indices)
            bar.update(len(indices))

    with bar, evaluating(model):
        return measure(as_metrics(task.metrics), model, batches())


def recalibrate(task: Task, model: nn.Module, *, batches: int = 20, seed: int = 0) -> None:
    """Re-estimate batch norm statistics from the task's training data (``recalibrate_batchnorm``)."""
    order = torch.split(_order(len(task.train_data), seed, 0), max(64, task.recipe.batch_size))
    recalibrate_batchnorm(model, (task.train_data[indices] for indices in order), batches)


def activations(task: Task, model: nn.Module, *, examples: int = 128, seed: int = 0) -> ActivationNorms:
    """What the layers of ``model`` are given on some of the task's training ``examples`` (``collect_activations``).

    128 examples are what the papers of Wanda and of relative importance use. Deterministic for a ``seed``.
    """
    return ActivationNorms(dict(statistics(task, model, [InputNorms], examples=examples, seed=seed)[InputNorms]))


def statistics(
    task: Task, model: nn.Module, kinds: Sequence[type[Statistic]], *, examples: int = 128, seed: int = 0
) -> Statistics:
    """Statistics of those ``kinds`` of what the layers of ``model`` are given (``sparselab.statistics.collect``).

    From some of the task's training ``examples``, through its loss. Deterministic for a ``seed``.
    """
    chosen = _order(len(task.train_data), seed, 0)[:examples]
    batches = (task.train_data[indices] for indices in torch.split(chosen, max(64, task.recipe.batch_size)))
    device = device_of(as_module(model, "statistics"))
    return collect(model, batches, kinds, device=device, forward=task.loss)


@contextmanager
def _interrupted_between_steps() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that the step that is under way can end and be saved; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if before is not signal.default_int_handler:  # somebody else's arrangement
        yield asked
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@functools.lru_cache(maxsize=4)
def _order(examples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(examples, generator=torch.Generator().manual_seed(_mixed(seed, epoch, 0)))


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers (the multiplier of a 64-bit linear congruential generator)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return mixed


@contextmanager
def _own_randomness(seed: int, model: nn.Module) -> Iterator[None]:
    """Torch's global generators seeded for a run, and as before after it."""
    with torch.random.fork_rng(cuda_devices(model)):
        torch.manual_seed(_mixed(seed, 2))
        yield
