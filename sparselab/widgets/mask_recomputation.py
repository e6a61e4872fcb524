"""How often should masks be recomputed? Train a small network under several schedules and watch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets
import pandas as pd
import traitlets
from torch import nn

from sparselab.core.models import as_eager
from sparselab.plots import matrices
from sparselab.plots.style import Figure
from sparselab.tasks import Task, dense_baseline, get_task
from sparselab.training.schedules import as_schedule
from sparselab.widgets import recomputing as logic
from sparselab.widgets.choosing import PatternChooser
from sparselab.widgets.job import Job
from sparselab.widgets.layers import pattern_text, require_names
from sparselab.widgets.panel import column, controls, numbers, pictures, wide
from sparselab.widgets.picture import Picture
from sparselab.widgets.searches import PATTERNS
from sparselab.widgets.working import WorkingPanel, each_of, require_none_failed, state_of


class MaskRecomputation(WorkingPanel):
    """Fine-tune the same dense network under two or three schedules; see how good it is, what masks retain, how many flip.

    ``task`` is a name (``"digits"``) or a ``Task``; its first two metrics are drawn. State: ``schedules`` (one to
    four, as in ``Sparsifier(schedule=...)``; ``"none"`` trains the dense network on, without masks), ``pattern``, ``steps``, ``seed``. ``run()`` starts in a thread, ``stop()``
    ends it and keeps what was seen, ``wait()`` waits. ``frame`` is ``run, step, quantity, value``, ``figure`` its picture.
    The dense network is trained first where it is not kept already (``dense_baseline``), or is ``dense``.
    """

    schedules = traitlets.Tuple(("one_shot", "recompute,every=20", "recompute,every=5"))
    pattern = traitlets.Unicode("1:4")
    steps = traitlets.Int(100, min=1)
    seed = traitlets.Int(0, min=0)

    def __init__(
        self,
        task: str | Task = "digits",
        pattern: str = "1:4",
        *,
        schedules: Sequence[str] = ("one_shot", "recompute,every=20", "recompute,every=5"),
        steps: int = 100,
        seed: int = 0,
        dense: nn.Module | None = None,
    ) -> None:
        self.task = get_task(task)
        self._dense = None if dense is None else as_eager(dense, "MaskRecomputation(dense=...)")
        self._runs: list[logic.Run] = []
        self._status, self._picture = numbers(), Picture()
        text = pattern_text(pattern)
        require_names("schedule", schedules, "sparselab.training.schedules.SCHEDULES")
        for name in logic.masking(schedules):
            as_schedule(name)
        self._make_controls(text)
        self._fields = [
            ipywidgets.Combobox(
                value=schedule,
                options=logic.SCHEDULE_CHOICES,
                description=f"Schedule {number}",
                placeholder="no third run" if number > 2 else "",
                **wide(layout={"width": "320px", "max_width": "98%"}),
            )
            for number, schedule in enumerate([*schedules, *[""] * (3 - len(schedules))], 1)
        ]
        chosen = controls(*(self._controls[name] for name in ("pattern", "steps", "seed")))
        asked = column(*self._fields, chosen, controls(self._run, self._stop), self.problem_line, self._status)
        super().__init__(
            [pictures(asked, self._picture)],
            starters=[self._run],
            stopper=self._stop,
        )
        self.schedules, self.pattern, self.steps, self.seed = tuple(schedules), text, steps, seed
        for name, control in self._controls.items():
            traitlets.link((self, name), (control, "value"))
        for field in self._fields:
            field.observe(self._typed, "value")
        self.observe(self._fill_fields, "schedules")
        self._status.value = f"Ready: {html.escape(self.task.name)}, {len(self.task.train_data):,} examples."

    @property
    def frame(self) -> pd.DataFrame:
        """``run, step, quantity, value`` so far."""
        return logic.curves(list(self._runs), self.task)

    @property
    def figure(self) -> Figure:
        """The task's metrics, retained magnitude and flips over the steps, one line per run."""
        return matrices.training_curves(self.frame)

    def portrait(self) -> Figure | None:
        """The curves where there are any."""
        return self.figure if len(self.frame) else None

    def run(self) -> None:
        """Start the runs, one after the other, in a thread. ``ValueError`` for schedules that do not fit."""
        self._require_idle()
        logic.require_schedules(self.schedules, self.pattern)
        runs = self._runs = []
        names, pattern, steps, seed = self.schedules, self.pattern, self.steps, self.seed

        def work(job: Job) -> None:
            training = logic.Training(self.task, pattern, steps, seed, every=max(1, steps // 20), check=job.check)
            if self._dense is None:
                self._dense = dense_baseline(self.task)[0]
            dense = self._dense

            def train(name: str) -> None:
                runs.append(logic.Run(name))
                training(dense, runs[-1])

            require_none_failed(each_of(names, train, job.check))

        asked = logic.Asked(len(names), steps, pattern)
        self._start(work, lambda job: self._show(job, asked), interval=0.5)

    def _make_controls(self, pattern: str) -> None:
        narrow = {"width": "150px"}
        self._controls: dict[str, ipywidgets.Widget] = {
            "pattern": PatternChooser(PATTERNS, pattern, pattern_text),
            "steps": ipywidgets.BoundedIntText(min=1, max=100_000, description="Steps each", **wide(layout=narrow)),
            "seed": ipywidgets.BoundedIntText(min=0, max=2**31 - 1, description="Seed", **wide(layout=narrow)),
        }
        self._run = ipywidgets.Button(description="Run", button_style="primary", tooltip="Train under each schedule")
        self._stop = ipywidgets.Button(description="Stop", disabled=True, tooltip="End it, keep what was seen")
        self._run.on_click(self._answering(self.run))
        self._stop.on_click(self._answering(self.stop))

    def _typed(self, _: Any) -> None:
        self.schedules = tuple(field.value.strip() for field in self._fields if field.value.strip())
        with self.problems_shown():
            logic.require_schedules(self.schedules, self.pattern)

    def _fill_fields(self, _: Any) -> None:
        if self.schedules != tuple(field.value.strip() for field in self._fields if field.value.strip()):
            for field, value in zip(self._fields, [*self.schedules, *[""] * len(self._fields)]):
                field.value = value

    def _show(self, job: Job, asked: logic.Asked) -> None:
        runs, state = list(self._runs), state_of(job)
        if not runs:
            doing = "training the dense network first, once" if job.running else "nothing trained"
            self._status.value = f"{state}: {doing}, {job.seconds:.1f} s."
            return
        frame = self.frame
        label, reached = logic.reached(frame)
        if len(frame):  # before it is said to be done
            figure = matrices.training_curves(frame)
            self._picture.show(figure, f"Training under several schedules: {reached}", zoom="xy")
        self._status.value = (
            f"{state}: run {len(runs)} of {asked.runs}, step {runs[-1].steps} of {asked.steps}, {job.seconds:.1f} s at "
            f"{html.escape(asked.pattern)}. {html.escape(f'{label}: {reached}')}."
        )
