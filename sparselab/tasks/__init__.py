"""Real networks and real data to try sparsity on, and the loop that trains them."""

from __future__ import annotations

from collections.abc import Callable

from sparselab.core.registry import Registry
from sparselab.metrics import CrossEntropy, Divergence, Mean, Means, Metric, Perplexity, Quantity, Top1, TopK
from sparselab.tasks.baseline import dense_baseline, fresh_model
from sparselab.tasks.efficientnet_lite import efficientnet_lite0
from sparselab.tasks.language_model import LanguageModelTask, TextProtocol, language_model_task
from sparselab.tasks.loop import Trained, activations, evaluate, recalibrate, train
from sparselab.tasks.optimizers import OPTIMIZERS
from sparselab.tasks.pictures import LabelledPictures, top1
from sparselab.tasks.pruning_trial import PruningTrial
from sparselab.tasks.smollm import smollm2
from sparselab.tasks.task import Collated, Recipe, Task

TASKS: Registry[Callable[[], Task]] = Registry(
    "task",
    {
        "digits": "sparselab.tasks.digits:Digits",
        "fashion_mnist": "sparselab.tasks.fashion_mnist:FashionMnist",
        "cifar10": "sparselab.tasks.cifar10:Cifar10",
        "imagenet_folder": "sparselab.tasks.imagenet_folder:ImagenetFolder",
        "sentiment": "sparselab.tasks.sentiment:Sentiment",
        "smollm2": "sparselab.tasks.smollm:SmolLM2",
    },
    group="sparselab.tasks",
)


def get_task(task: str | Task | Callable[[], Task]) -> Task:
    """The task that a name with options stands for (``"fashion_mnist,network=plain"``).

    A ``Task`` is returned as it is. Loads the data. Raises ``ValueError`` for an unknown name,
    listing the valid ones, and ``FileNotFoundError`` saying what was looked for where the data are
    missing.
    """
    if isinstance(task, Task):
        return task
    maker = TASKS.resolve(task) if isinstance(task, str) else task
    if not callable(maker):
        raise ValueError(f"a task is a name with options such as 'digits', a Task or what makes one, got {maker!r}")
    made = maker()
    if not isinstance(made, Task):
        raise ValueError(
            f"{maker!r} is called for a Task, and returned {made!r}; a trial of your own takes an argument"
        )
    return made


__all__ = [
    "OPTIMIZERS",
    "TASKS",
    "Collated",
    "CrossEntropy",
    "Divergence",
    "LabelledPictures",
    "LanguageModelTask",
    "Mean",
    "Means",
    "Metric",
    "Perplexity",
    "PruningTrial",
    "Quantity",
    "Recipe",
    "Task",
    "TextProtocol",
    "Top1",
    "TopK",
    "Trained",
    "activations",
    "dense_baseline",
    "efficientnet_lite0",
    "evaluate",
    "fresh_model",
    "get_task",
    "language_model_task",
    "recalibrate",
    "smollm2",
    "top1",
    "train",
]
