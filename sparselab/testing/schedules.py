"""What every schedule must do."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sparselab.masks import calculator
from sparselab.training.schedules import SCHEDULES, Schedule
from sparselab.training.sparsifier import Sparsifier


@dataclass(frozen=True)
class ScheduledRun:
    """A ``schedule`` for a ``pattern``, after whose first ``done`` steps the weights are sparse for good."""

    schedule: str | Schedule
    done: int
    pattern: str = "2:4"


class ScheduleContract:
    """The promises of a schedule; a subclass says in the fixture ``run`` which ones it tests."""

    @pytest.fixture
    def run(self) -> ScheduledRun:
        """What is tested."""
        raise NotImplementedError("override the fixture 'run': return a ScheduledRun")

    def test_ends_exactly_sparse_and_trains_on_the_way(self, run: ScheduledRun) -> None:
        """From step ``done`` on no group keeps more than N, and weights still move."""
        assert isinstance(SCHEDULES.resolve(run.schedule), Schedule)
        history = _history(run, run.done + 4)
        calculate = calculator(run.pattern)
        for weights in history[run.done :]:
            assert all(calculate.violations(weight[None]).count == 0 for weight in weights)
        assert not torch.equal(history[-1][0], history[run.done][0])

    def test_a_resumed_run_is_the_run(self, run: ScheduledRun) -> None:
        """Stopped anywhere and resumed in new objects, it ends with the same bits."""
        steps = run.done + 4
        expected = _history(run, steps)[-1]
        for stop in range(1, steps, max(1, steps // 3)):
            first = _Training(run)
            first.go(stop)
            resumed = _Training(run, computed=False)
            resumed.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
            resumed.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
            resumed.sparsifier.load_state_dict(copy.deepcopy(first.sparsifier.state_dict()))
            resumed.go(steps - stop)
            assert all(torch.equal(*pair) for pair in zip(resumed.weights(), expected))

    def test_a_copied_run_is_the_run(self, run: ScheduledRun) -> None:
        """Model, optimizer and Sparsifier copied together go on as the original does."""
        training = _Training(run)
        training.go(2)
        copied = copy.deepcopy(training)
        training.go(run.done + 2)
        copied.go(run.done + 2)
        assert all(torch.equal(*pair) for pair in zip(training.weights(), copied.weights()))
        assert copied.model is not training.model


class _Training:
    """A small network under a schedule, trained by gradient descent with momentum."""

    def __init__(self, run: ScheduledRun, *, computed: bool = True) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8))
        self.inputs = torch.randn(16, 32, generator=generator)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.05, momentum=0.5)
        self.sparsifier = Sparsifier(self.model, run.pattern, schedule=run.schedule)
        self.sparsifier.attach(self.optimizer)
        if computed:
            self.sparsifier.compute()

    def go(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(self.inputs).square().mean().backward()
            self.optimizer.step()

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters() if parameter.ndim > 1]


def _history(run: ScheduledRun, steps: int) -> list[list[Tensor]]:
    """The weights after 0, 1, ... ``steps`` steps."""
    training = _Training(run)
    history = [training.weights()]
    for _ in range(steps):
        training.go(1)
        history.append(training.weights())
    return history
