"""What every task must do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sparselab.core.models import to_device
from sparselab.network.permuting import permute
from sparselab.tasks import Recipe, Task, evaluate, fresh_model, get_task, train
from sparselab.training.sparsifier import Sparsifier


class TaskContract:
    """The promises of a task; a subclass says in the fixture ``source`` which ones it tests.

    A task whose data or packages are not there is skipped, saying what it looked for.
    """

    @pytest.fixture
    def source(self) -> str | Task | Callable[[], Task]:
        """What is tested: a name with options, a ``Task``, or what makes one."""
        raise NotImplementedError("override the fixture 'source': return a task or its name")

    @pytest.fixture
    def task(self, source: str | Task | Callable[[], Task]) -> Task:
        """The task with its data."""
        try:
            return get_task(source)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            pytest.skip(str(error))

    def test_it_can_be_judged(self, task: Task) -> None:
        """A loss that is finite, and a headline among the metrics."""
        model = fresh_model(task)
        loss = task.loss(model, task.train_data[torch.arange(min(8, len(task.train_data)))])
        assert loss.ndim == 0
        assert loss.isfinite()
        few = Task(task.name, task.model, task.train_data, _First(task.eval_data), task.loss, task.metrics)
        assert task.headline.name in evaluate(few, model)

    def test_it_can_be_trained_sparse(self, task: Task) -> None:
        """More than one layer takes 2:4, and keeps it through a step."""
        model = fresh_model(task)
        sparsifier = Sparsifier(model, "2:4", include=task.include)
        assert len(sparsifier.masks) > 1
        train(task, model, recipe=Recipe("sgd,0.001", batch_size=8), steps=1, sparsifier=sparsifier)
        assert sparsifier.enabled

    def test_it_can_be_traced(self, task: Task) -> None:
        """With its example inputs, so that channels can be permuted."""
        model = fresh_model(task)
        report = permute(model, to_device(task.example_inputs, "cpu"), strategy="identity", include=task.include)
        assert report.untraceable is None

    def test_the_same_seed_is_the_same_network(self, task: Task) -> None:
        """And another seed, or a pretrained network, at least no error."""
        first, second = (fresh_model(task, 3).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


class _First:
    """The first four examples of ``data``."""

    def __init__(self, data: object) -> None:
        self.data = data

    def __len__(self) -> int:
        return min(4, len(self.data))  # type: ignore[arg-type]

    def __getitem__(self, indices: torch.Tensor) -> object:
        return self.data[indices]  # type: ignore[index]
