"""Training runs as the widget runs them: the same dense network under several schedules. Plain functions, no widget."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
from torch import nn

from sparselab.masks import calculator
from sparselab.metrics import Quantity, describe
from sparselab.metrics.metric import as_metrics
from sparselab.tasks import PruningTrial, Task, evaluate
from sparselab.trackers import MagnitudeTracker, MaskChurnTracker, Tracker
from sparselab.training.schedules import SCHEDULES

NO_MASKS = "none"
"""In place of a schedule: the dense network is trained on, as what the others are compared with."""

Check = Callable[[], None]
COLUMNS = ("run", "step", "quantity", "value")
SCHEDULE_CHOICES = (
    NO_MASKS,
    *("one_shot", "recompute,every=100", "recompute,every=20", "recompute,every=5", "recompute,every=1"),
    *("recompute,every=20,until=60", "recompute,every=20,regrow=true,grow=5", "gradual,0,60", "decay,0,60"),
)


@dataclass(eq=False)
class Run:
    """One run under one schedule, or under ``NO_MASKS``: the trackers that watch it, and the steps it has done.

    ``dense_total`` is the sum of ``|w|`` of the layers that are pruned, in the dense network.
    """

    schedule: str
    dense_total: float = 0.0
    trackers: dict[str, Tracker] = field(default_factory=dict)
    steps: int = 0


@dataclass(frozen=True)
class Asked:
    """What was asked for when the runs began; what is chosen meanwhile is for the next ones."""

    runs: int
    steps: int
    pattern: str


class Watch(Tracker):
    """Measures the task every ``every`` steps, and calls ``check`` at each step, which may end the run."""

    def __init__(self, task: Task, model: nn.Module, run: Run, check: Check, every: int) -> None:
        super().__init__(every)
        self.task, self.model, self.run, self.check = task, model, run, check

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """The task's metrics on its held-out data."""
        measured = evaluate(self.task, self.model)
        self.columns = tuple(measured)
        yield measured

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.check()
        self.run.steps += 1
        super()._after_step(optimizer, args, kwargs)


def require_schedules(schedules: Sequence[str], pattern: str) -> None:
    """Raise ``ValueError`` unless there are one to four different schedules that fit the pattern, or ``NO_MASKS``."""
    if not 0 < len(schedules) <= 4:
        raise ValueError(f"choose one to four schedules, got {len(schedules)}")
    if len(set(schedules)) < len(schedules):
        raise ValueError("two of the schedules are the same: a run is compared with another")
    for schedule in masking(schedules):
        SCHEDULES.resolve(schedule).check(calculator(pattern))


def masking(schedules: Sequence[str]) -> list[str]:
    """Those of ``schedules`` that have masks."""
    return [schedule for schedule in schedules if schedule != NO_MASKS]


@dataclass(frozen=True)
class Training:
    """What the runs of a comparison share; each is looked at ``every`` so many steps, and ``check`` may end it."""

    task: Task
    pattern: str
    steps: int
    seed: int
    every: int
    check: Check

    def __call__(self, dense: nn.Module, run: Run) -> None:
        """Fine-tune a copy of ``dense``, pruned under ``run.schedule``; ``run.trackers`` fill as it goes."""
        model = copy.deepcopy(dense)
        if run.schedule == NO_MASKS:
            pruning = PruningTrial(None, steps=self.steps, seed=self.seed)
        else:
            pruning = PruningTrial(self.pattern, schedule=run.schedule, steps=self.steps, seed=self.seed)
        sparsifier = pruning.sparsifier(self.task, model)
        run.trackers = {"task": Watch(self.task, model, run, self.check, self.every)}
        if sparsifier is not None:
            run.dense_total = sum(
                float(dense.get_parameter(name).detach().double().abs().sum()) for name in sparsifier.masks
            )
            run.trackers |= {
                "churn": MaskChurnTracker(sparsifier),
                "magnitude": MagnitudeTracker(sparsifier, self.every),
            }
        pruning.finetune(self.task, model, sparsifier, list(run.trackers.values()))


def curves(runs: Sequence[Run], task: Task) -> pd.DataFrame:
    """``run, step, quantity, value`` of every run so far: the metrics of ``task``; over all layers ``retained_percent``
    (what the mask of the moment leaves of the weights of the moment), ``fresh_percent`` (what masks computed then would), both of
    the magnitude of the dense network, and ``flipped_percent`` (of all mask entries, at each recomputation). ``attrs["quantities"]`` are the metrics, the headline first.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for run in runs:
        for name, summarise in _SUMMARIES.items():
            if name in run.trackers and run.trackers[name].rows:
                part = summarise(run, run.trackers[name].frame).melt("step", var_name="quantity")
                parts.append(part.assign(run=run.schedule)[list(COLUMNS)])
    frame = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    measured = dict.fromkeys(name for run in runs if "task" in run.trackers for name in run.trackers["task"].columns)
    frame.attrs["quantities"] = [asdict(each) for each in describe(as_metrics(task.metrics), measured)]
    return frame


def reached(frame: pd.DataFrame) -> tuple[str, str]:
    """What the headline is called, and its last value in every run of ``curves``, in words."""
    said = frame.attrs["quantities"]
    if not said:
        return "Metrics", "not measured yet"
    headline = Quantity(**said[0])
    last = frame[frame["quantity"] == headline.name].groupby("run", sort=False)["value"].last()
    return headline.label, ", ".join(f"{run} {value:.4g}" for run, value in last.items())


def _of_task(_: Run, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.dropna(axis=1, how="all")


def _of_magnitude(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    # Not of what the tracker has as the total: where pruned values are not kept, that is what is left.
    sums = frame.groupby("step")[["retained", "fresh"]].sum()
    shares = {f"{name}_percent": 100 * sums[name] / run.dense_total for name in ("retained", "fresh")}
    return pd.DataFrame(shares).reset_index()


def _of_churn(_: Run, frame: pd.DataFrame) -> pd.DataFrame:
    entries = 100 * frame["flipped"] / frame["flipped_percent"].where(frame["flipped_percent"] > 0)
    sizes = frame.assign(entries=entries).groupby("layer")["entries"].max()
    flipped = frame.groupby("step")["flipped"].sum()
    known = frame["layer"].map(sizes).groupby(frame["step"]).sum()
    return pd.DataFrame({"flipped_percent": 100 * flipped / known.where(known > 0)}).fillna(0.0).reset_index()


_SUMMARIES: dict[str, Callable[[Run, pd.DataFrame], pd.DataFrame]] = {
    "task": _of_task,
    "magnitude": _of_magnitude,
    "churn": _of_churn,
}
