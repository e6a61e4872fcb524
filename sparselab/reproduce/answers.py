"""What a network says on a fixed set of examples, kept so that networks can be compared example by example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparselab.core.models import evaluating, to_device
from sparselab.tasks import Task
from sparselab.tasks.task import logits_of


@dataclass(frozen=True, eq=False)
class Answers:
    """``logits`` ``(examples, classes)`` and the true ``labels`` ``(examples,)``."""

    logits: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """Which examples have their highest logit at their label, bool."""
        return self.logits.argmax(1) == self.labels

    @property
    def top1(self) -> float:
        """Percent of the examples."""
        return 100 * float(self.right.double().mean())

    def divergence_from(self, reference: Answers) -> float:
        """Mean Kullback-Leibler divergence from the reference's class probabilities to these, in nats; 0 if they agree."""
        theirs = F.log_softmax(reference.logits.double(), 1)
        ours = F.log_softmax(self.logits.double(), 1)
        return float((theirs.exp() * (theirs - ours)).sum(1).mean())


def answers(task: Task, model: nn.Module, *, batch_size: int = 250) -> Answers:
    """Those of ``model`` on the task's evaluation data, on the CPU, in evaluation mode; its mode is as before afterwards."""
    logits, labels = [], []
    device = next(model.parameters()).device
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
