"""The trial of a built-in task.

The dense network is permuted, pruned, fine-tuned by its schedule, and measured throughout.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from sparselab._version import __version__
from sparselab.core.fingerprint import cell, digest
from sparselab.core.measures import efficacy
from sparselab.core.registry import unknown_name
from sparselab.layerwise import PruneReport
from sparselab.masks import calculator
from sparselab.metrics import Quantity, describe
from sparselab.metrics.metric import Batch, as_metrics
from sparselab.network.orders import as_orders
from sparselab.permutation.coercion import as_strategy
from sparselab.pruners import get_pruner
from sparselab.pruners.pruner import require_own_scores
from sparselab.reports import magnitude_report
from sparselab.saliency.scoring import require_saliency
from sparselab.sweeps.trial import Trial
from sparselab.tasks import TASKS, PruningTrial, Task, dense_baseline, evaluate, get_task
from sparselab.tasks.task import Data
from sparselab.trackers import MagnitudeTracker, MaskChurnTracker, Tracker
from sparselab.trackers.accuracy import MetricsTracker
from sparselab.training.schedules import as_schedule
from sparselab.training.sparsifier import Sparsifier

DEFAULTS: Mapping[str, Any] = {
    "pattern": "2:4",
    "permutation": "auto",
    "schedule": "one_shot",
    "saliency": "magnitude",
    "steps": None,
    "seed": 0,
}
OPTIONAL = ("orders", "pruner", "calibration", "sequential", "device", "threads", "track_every")

_POINTS = 10  # of a time series, unless track_every says otherwise
_TRACKED_EXAMPLES = 1000

Source = Task | Callable[[], Task]


def _check_pattern(pattern: Any) -> None:
    """Raise ``ValueError`` for what chooses no masks; a function of weights does."""
    if isinstance(pattern, type) or not callable(pattern):
        calculator(pattern)


@dataclass(frozen=True)
class PruningRun:
    """Trials of ``source``, a ``Task`` or what makes one (so that its data need not travel), called ``name``."""

    name: str
    source: Source

    @property
    def task(self) -> PruningRun:
        """The run itself is what workers call."""
        return self

    def fill(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults for what is not given; raises ``ValueError`` for an input that no such trial has."""
        for name in given:
            if name == "strategy":
                raise ValueError(
                    "a sweep over a task has no strategy=: write permutation=, whether and how to permute: None, or a "
                    "strategy, [None, 'auto'] for both"
                )
            if name not in DEFAULTS and name not in OPTIONAL:
                raise unknown_name(f"option or input of a sweep over {self.name!r}", name, [*DEFAULTS, *OPTIONAL])
        return {**DEFAULTS, **given}

    def check(self, trials: Iterable[Mapping[str, Any]]) -> None:
        """Raises ``ValueError`` for unknown names, for objects that are none of the kind, for no schedule, and for a pruner beside a saliency."""
        resolve: Mapping[str, Callable[[Any], object]] = {
            "pattern": _check_pattern,
            "permutation": as_strategy,
            "orders": as_orders,
            "schedule": as_schedule,
            "saliency": require_saliency,
            "pruner": get_pruner,
        }
        trials = list(trials)
        for trial in trials:
            require_own_scores(trial.get("pruner"), trial.get("saliency", "magnitude"))
        if any(trial.get("schedule", "") is None for trial in trials):
            raise ValueError(
                "schedule=None: a network without masks is pattern=None; schedules are names, such as 'one_shot'"
            )
        given = [(name, trial[name]) for trial in trials for name in resolve if trial.get(name) is not None]
        seen = {(name, spec if isinstance(spec, str) else id(spec)): spec for name, spec in given}
        for (name, _), spec in seen.items():
            resolve[name](spec)

    def prepare(self) -> None:
        """Load the data; raises ``FileNotFoundError`` saying what was looked for where they are missing."""
        _loaded(self.source)

    def identity(self, version: str | int | None) -> Any:
        """What decides the result: the task, its recipes and the first of its data; sparselab's own version."""
        about = version if version is not None else _parts(self.source)
        return [self.name, __version__, digest(about)]

    def __call__(self, trial: Trial) -> dict[str, Any]:
        """Every metric of the task in three phases, and what pruning and training came to.

        The headline comes first (``dense_top1, pruned_top1, finetuned_top1``); then
        ``retained_percent`` of the magnitude of the pruned layers, ``efficacy`` of their
        permutation, and where one was searched ``permuted_percent`` of their weights and
        ``not_permuted``, the reason for most of the others; with gathered ``orders`` the number of
        ``gathers`` and their ``gather_microseconds``; ``density`` of their weights,
        ``sparse_layers``, and the seconds of each phase. ``pruned_*`` is measured after the first
        masks with batch norm re-estimated, before any fine-tuning. Where the network is pruned on
        calibration data, block by block, the medians of the ``reconstruction errors`` and the number
        of ``calibration_examples`` stand beside; and so do the fields of the task's protocol, if it
        has one. Time series: ``accuracy``, ``magnitude`` and ``mask_churn``.
        """
        run = _Phases(_loaded(self.source), trial, _pruning(trial))
        with run.timed("dense"):
            model, dense = dense_baseline(run.task, seed=trial.seed, device=_device(trial))
        sparsifier = run.prune(model)
        pruned = evaluate(run.task, model)
        trackers = run.trackers(model, sparsifier, tuple(dense))
        finetuned = run.finetune(model, sparsifier, list(trackers.values()))
        phases = {"dense": dense, "pruned": pruned, "finetuned": finetuned}
        metrics = {
            f"{phase}_{name}": measured[name]
            for name in dense
            for phase, measured in phases.items()
            if name in measured
        }
        layers = {"sparse_layers": len(sparsifier.masks), "density": _density(sparsifier)} if sparsifier else {}
        frames = {name: tracker.frame for name, tracker in trackers.items() if len(tracker.frame)}
        said = _in_phases(describe(as_metrics(run.task.metrics), dense), reversed(phases))
        protocol = {} if run.task.protocol is None else dataclasses.asdict(run.task.protocol)
        about = {**run.worth, **run.order, **layers, **run.seconds, **protocol, "device": str(_device(trial))}
        return {**metrics, **about, **frames, "said": said}


def _pruning(trial: Trial) -> PruningTrial:
    more = {name: trial[name] for name in ("orders", "pruner", "calibration", "sequential") if name in trial}
    return PruningTrial(**{name: trial[name] for name in DEFAULTS}, **more)


@dataclass(frozen=True)
class _Phases:
    """One trial on its way: its task, its inputs, how it prunes, and what was measured so far."""

    task: Task
    trial: Trial
    pruning: PruningTrial
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    worth: dict[str, float] = dataclasses.field(default_factory=dict)
    order: dict[str, Any] = dataclasses.field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Note the seconds of a phase."""
        start = time.perf_counter()
        yield
        self.seconds[f"seconds_{phase}"] = time.perf_counter() - start

    def prune(self, model: nn.Module) -> Sparsifier | None:
        """Permute and prune, and let batch norm fit; nothing, with ``pattern=None``: the dense control."""
        before = None if self.pruning.pattern is None else magnitude_report(model, self.pruning.pattern)
        with self.timed("prune"):
            layerwise = self.pruning.layerwise(self.task, model)
        sparsifier = self.pruning.sparsifier(self.task, model, layerwise)
        if sparsifier is None or before is None:
            del self.seconds["seconds_prune"]
            return None
        if layerwise is None:
            with self.timed("prune"):
                sparsifier.compute()
            report = sparsifier.permutation_report
            self.worth.update(_worth(before, sparsifier))
        else:
            sparsifier.compute()
            report = layerwise.permutation
            self.worth.update(_worth_of(layerwise, self.pruning.calibration_of(self.task)))
        self.seconds["seconds_search"] = 0.0 if report is None else float(report.frame["seconds"].sum())
        if report is not None:
            self.order.update(permuted_percent=100 * report.share_permuted, not_permuted=report.why_not)
            if len(report.gathers):
                taken = report.taken
                self.order.update(gathers=len(taken), gather_microseconds=float(taken["microseconds"].sum()))
        self.pruning.recalibrate(self.task, model)
        return sparsifier

    def finetune(
        self, model: nn.Module, sparsifier: Sparsifier | None, trackers: Sequence[Tracker]
    ) -> Mapping[str, float]:
        """Train on under the masks and evaluate; with ``steps=0`` there is nothing to say."""
        if self.pruning.steps_of(self.task) == 0:
            return {}
        with self.timed("finetune"):
            self.pruning.finetune(self.task, model, sparsifier, trackers)
        return evaluate(self.task, model)

    def trackers(self, model: nn.Module, sparsifier: Sparsifier | None, measured: Sequence[str]) -> dict[str, Tracker]:
        """What to follow while fine-tuning, the quantities ``measured`` of the task among it.

        Every ``track_every`` steps, 0 for nothing, by default some ten times per run.
        """
        every = self.trial.get("track_every", max(1, -(-self.pruning.steps_of(self.task) // _POINTS)))
        if every == 0:
            return {}
        some = dataclasses.replace(self.task, eval_data=_First(self.task.eval_data, _TRACKED_EXAMPLES))
        trackers: dict[str, Tracker] = {"accuracy": MetricsTracker(lambda: evaluate(some, model), measured, every)}
        if sparsifier is not None:
            trackers["magnitude"] = MagnitudeTracker(sparsifier, every)
            trackers["mask_churn"] = MaskChurnTracker(sparsifier)
        for tracker in trackers.values():
            tracker.record()
        return trackers


def _in_phases(quantities: Sequence[Quantity], phases: Iterable[str]) -> tuple[Quantity, ...]:
    """The columns of ``quantities`` in every one of ``phases``, and then themselves, as time series call them."""
    columns = [(phase, each) for phase in phases for each in quantities]
    named = (
        dataclasses.replace(each, name=f"{phase}_{each.name}", label=f"{phase} {each.label}") for phase, each in columns
    )
    return (*named, *quantities)


@dataclass(frozen=True, eq=False)
class _First:
    """The first ``count`` examples of ``data``."""

    data: Data
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.data))

    def __getitem__(self, indices: torch.Tensor) -> Batch:
        return self.data[indices]


def pruning_run(task: str | Source) -> PruningRun:
    """The run of a task by name (``"fashion_mnist,network=plain"``), of a ``Task``, or of a function that makes one.

    Raises ``ValueError`` for an unknown name or option, listing the valid ones.
    """
    if isinstance(task, str):
        return PruningRun(task, TASKS.resolve(task))
    return PruningRun(task.name if isinstance(task, Task) else str(cell(task)), task)


@functools.lru_cache(maxsize=2)
def _made(source: Callable[[], Task]) -> Task:
    return source()


def _loaded(source: Source) -> Task:
    """The task with its data, which a process loads once."""
    return get_task(source if isinstance(source, Task) else _made(source))


def _parts(source: Source) -> Any:
    if not isinstance(source, Task):
        return source
    fields = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    fields["metrics"] = [metric.identity() for metric in as_metrics(source.metrics)]
    data = {name: fields.pop(name) for name in ("train_data", "eval_data", "example_inputs")}
    sizes = len(data["train_data"]), len(data["eval_data"])
    return [fields, sizes, source.train_data[torch.arange(min(8, sizes[0]))]]


def _device(trial: Trial) -> torch.device:
    chosen = trial.get("device")
    return torch.device(chosen if chosen is not None else "cuda" if torch.cuda.is_available() else "cpu")


def _worth(before: pd.DataFrame, sparsifier: Sparsifier) -> dict[str, float]:
    """What masks retain of the magnitudes in the report from ``before`` them, and the efficacy of the permutation."""
    layers = before.set_index("layer").loc[list(sparsifier.masks)]
    retained = float((layers["total"] * layers.index.map(sparsifier.weights.shares)).sum())
    worth = {"retained_percent": 100 * retained / float(layers["total"].sum())}
    calculator = sparsifier.weights.choice.calculator
    if calculator is None or calculator.nm is None:
        return worth
    return {**worth, "efficacy": efficacy(retained, float(layers["retained"].sum()), float(layers["ideal"].sum()))}


def _worth_of(report: PruneReport, examples: int | None) -> dict[str, Any]:
    """What pruning on so many calibration ``examples`` came to."""
    rows = report.frame[report.frame["eligible"]]
    errors = {name: float(rows[name].median()) for name in ("dense_error_percent", "pruned_error_percent")}
    retained = float((rows["retained_percent"] * rows["magnitude"]).sum() / rows["magnitude"].sum())
    options = report.protocol["pruner_options"]
    return {"retained_percent": retained, **errors, "calibration_examples": examples, "pruner_options": options}


def _density(sparsifier: Sparsifier) -> float:
    rows = sparsifier.frame.set_index("layer").loc[list(sparsifier.masks)]
    sizes = rows["shape"].map(lambda shape: torch.Size(shape).numel())
    return float((rows["density"] * sizes).sum() / sizes.sum())
