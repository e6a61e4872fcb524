"""What a network says on a fixed set of examples, kept so that networks can be compared example by example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselab.core.models import device_of, evaluating, to_device
from sparselab.metrics import Metric, Top1, measure
from sparselab.metrics.classification import correct, logits_of
from sparselab.tasks import Task


@dataclass(frozen=True, eq=False)
class Answers:
    """``logits`` ``(examples, classes)`` and the true ``labels`` ``(examples,)``."""

    logits: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """Which examples have their highest logit at their label, bool."""
        return correct(self.logits, self.labels)

    @property
    def top1(self) -> float:
        """Percent of the examples."""
        return self.score(Top1())

    def score(self, metric: Metric) -> float:
        """What ``metric`` makes of these answers: any that looks at logits and labels alone."""
        return measure([metric], _Says(self.logits), [((None, self.labels), len(self.labels))])[metric.name]

    def divergence_from(self, reference: Answers) -> float:
        """Mean KL divergence from the reference's class probabilities to these, in nats.

        It is 0 if they agree.
        """
        theirs = F.log_softmax(reference.logits.double(), 1)
        ours = F.log_softmax(self.logits.double(), 1)
        return float((theirs.exp() * (theirs - ours)).sum(1).mean())


class _Says(nn.Module):
    """A network that has answered already."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: None) -> Tensor:
        """What it answered."""
        return self.logits


def answers(task: Task, model: nn.Module, *, batch_size: int = 250) -> Answers:
    """Answers of ``model`` on the task's evaluation data, on the CPU, in evaluation mode.

    Its mode is as before afterwards.
    """
    logits, labels = [], []
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        for indices in torch.split(torch.arange(len(task.eval_data)), batch_size):
            out, label = logits_of(model, to_device(task.eval_data[indices], device))
            logits.append(out.cpu())
            labels.append(label.cpu())
    return Answers(torch.cat(logits), torch.cat(labels))


def pack(right: Tensor) -> str:
    """Booleans as hexadecimal digits, so that a store can keep which examples were right.

    >>> unpack(pack(torch.tensor([True, False, True])), 3).tolist()
    [True, False, True]
    """
    return np.packbits(right.numpy()).tobytes().hex()


def unpack(digits: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The first ``count`` booleans that ``pack`` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=count).astype(bool)
