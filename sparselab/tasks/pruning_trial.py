"""One way to prune a trained network: prune, recalibrate, fine-tune. What is measured in between is the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparselab.core.models import device_of, to_device
from sparselab.layerwise import PruneReport, prune
from sparselab.network.orders import Orders
from sparselab.network.plan import Plan
from sparselab.permutation.strategy import Strategy
from sparselab.pruners import Pruner, get_pruner
from sparselab.saliency import ModelSaliency, needs
from sparselab.statistics import Statistics
from sparselab.tasks.loop import Trained, recalibrate, statistics, train
from sparselab.tasks.task import Task
from sparselab.trackers.tracker import Tracker
from sparselab.training.schedules.schedule import Schedule
from sparselab.training.sparsifier import Sparsifier


@dataclass(frozen=True)
class PruningTrial:
    """Everything that decides what becomes of a trained network, beside the network and its task.

    ``pattern``, ``schedule``, ``saliency``, ``pruner``, ``permutation``, ``orders`` and ``keep_pruned`` are
    those of ``Sparsifier``; ``None`` for a ``pattern`` prunes nothing (the dense control), for a
    ``permutation`` leaves the channels where they are. ``plan``, where there is one, moves them
    first: a control's random order, say.

    With ``calibration``, a number of training examples (``None``: as the task says), the network is
    pruned by ``sl.prune``, block by block, ``sequential`` as there, by ``pruner`` or else by the
    ``saliency`` of that name; the Sparsifier then takes the zeros over. ``steps`` of fine-tuning (``None``: as the task's recipe
    says). ``seed`` decides the batches of ``recalibrate`` and of a saliency's data; ``batches`` is
    the seed of those of ``finetune`` (``None``: the same). The same trial gives the same network.

    Raises ``ValueError`` for ``steps`` that are no whole number from 0 on.

    >>> PruningTrial("2:4", steps=-1)
    Traceback (most recent call last):
    ...
    ValueError: steps=-1 must be a whole number of optimizer steps, at least 0
    """

    pattern: Any = "2:4"
    permutation: str | Strategy | None = None
    schedule: str | Schedule = "one_shot"
    saliency: ModelSaliency = "magnitude"
    pruner: str | Pruner | None = None
    steps: int | None = None
    seed: int = 0
    batches: int | None = None
    keep_pruned: bool = False
    plan: Plan | None = None
    calibration: int | None = None
    sequential: bool = True
    orders: str | Orders = "free"

    def __post_init__(self) -> None:
        steps = self.steps
        if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 0):
            raise ValueError(f"steps={steps!r} must be a whole number of optimizer steps, at least 0")

    def layerwise(self, task: Task, model: nn.Module) -> PruneReport | None:
        """Prune ``model``, whose channels ``plan`` has moved, block by block.

        ``None``, and nothing is done, where no calibration is asked for, and for the dense control.
        Raises ``ValueError`` for a schedule that would choose masks anew.
        """
        examples = self.calibration_of(task)
        if self.pattern is None or examples is None:
            return None
        if self.schedule != "one_shot":
            raise ValueError(
                f"schedule={self.schedule!r}: pruning on calibration data is done once, schedule='one_shot'"
            )
        if not isinstance(self.saliency, str):
            raise ValueError("calibration: a saliency that is no name is that of one network as it was; give its name")
        if self.plan is not None:
            self.plan.apply(model)
        return prune(
            model,
            task.calibration_batches(examples, self.seed),
            self.pattern,
            pruner=self.saliency if self.pruner is None else self.pruner,
            permutation=self.permutation,
            orders=self.orders,
            include=task.include,
            sequential=self.sequential,
            seed=self.seed,
            progress=False,
        )

    def calibration_of(self, task: Task) -> int | None:
        """How many examples the network is calibrated on block by block; ``None``: it is not."""
        return task.calibration if self.calibration is None else self.calibration

    def sparsifier(self, task: Task, model: nn.Module, report: PruneReport | None = None) -> Sparsifier | None:
        """What will prune ``model``, whose channels ``plan`` has moved; nothing is masked yet.

        With the ``report`` of ``layerwise``, what takes over the zeros that the model has already.
        ``None`` for the dense control. A pruner, or a saliency by name, that needs statistics is
        given those of ``model``, which is dense still. Raises ``ValueError`` where the pattern fits
        no layer.
        """
        if report is not None:
            return Sparsifier(
                model,
                self.pattern,
                include=report.layers,
                keep_pruned=self.keep_pruned,
                permutation=None,
                orders=report.own,
            )
        if self.plan is not None:
            self.plan.apply(model)
        if self.pattern is None:
            return None
        sparsifier = Sparsifier(
            model,
            self.pattern,
            saliency=self.saliency,
            pruner=self.pruner,
            statistics=self._statistics(task, model),
            include=task.include,
            schedule=self.schedule,
            keep_pruned=self.keep_pruned,
            permutation=self.permutation,
            orders=self.orders,
            example_inputs=to_device(task.example_inputs, device_of(model)),
        )
        if not sparsifier.masks:
            raise ValueError(f"pattern {self.pattern} fits no layer of {task.name}; sl.magnitude_report says why")
        return sparsifier

    def prune(self, task: Task, model: nn.Module) -> Sparsifier | None:
        """Permute and prune ``model`` in place.

        Returns ``None`` for the dense control; raises ``ValueError`` as ``layerwise`` and ``sparsifier`` do.
        """
        sparsifier = self.sparsifier(task, model, self.layerwise(task, model))
        if sparsifier is not None:
            sparsifier.compute()
        return sparsifier

    def recalibrate(self, task: Task, model: nn.Module) -> None:
        """Let the batch norms of a pruned ``model`` fit its weights.

        What is measured then is what pruning alone does.
        """
        recalibrate(task, model, seed=self.seed)

    def steps_of(self, task: Task) -> int:
        """How many steps ``finetune`` takes."""
        return task.finetuning_recipe.steps(len(task.train_data)) if self.steps is None else self.steps

    def finetune(
        self, task: Task, model: nn.Module, sparsifier: Sparsifier | None, trackers: Sequence[Tracker] = ()
    ) -> Trained:
        """Train ``model`` on under its masks by the task's recipe for fine-tuning, watched by ``trackers``."""
        return train(
            task,
            model,
            recipe=task.finetuning_recipe,
            steps=self.steps,
            seed=self.seed if self.batches is None else self.batches,
            sparsifier=sparsifier,
            trackers=trackers,
        )

    def _statistics(self, task: Task, model: nn.Module) -> Statistics | None:
        """What is pruned by, from some of the task's training data; ``None`` where the weights say it all."""
        kind = None
        if self.pruner is not None:
            kind = get_pruner(self.pruner).needs
        elif isinstance(self.saliency, str):
            kind = needs(self.saliency)
        return None if kind is None else statistics(task, model, [kind], seed=self.seed)
