"""Training a language model to foretell what the dense one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparselab.metrics.classification import IGNORED
from sparselab.metrics.language import DenseReference, foretold
from sparselab.metrics.metric import Batch

_PLACES = 128
"""How many places are looked at together: a row of logits is as long as the vocabulary."""


@dataclass(frozen=True, eq=False)
class Distillation:
    """A loss: the divergence ``sum p log(p / q)`` of the model from the dense ``reference``, in nats per token.

    Averaged over the tokens that count (``sparselab.metrics.language.foretold``), as the metric
    ``kl`` is. The reference's logits are computed for each batch, so nothing is kept between
    batches; gradients take their place in memory. Beside what training takes anyhow that is the
    dense model and its logits of one batch, ``tokens x vocabulary``.
    """

    reference: DenseReference

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss on one batch, a scalar."""
        logits, labels = foretold(model, batch)
        with torch.no_grad():
            expected, _ = foretold(self.reference.on(logits.device), batch)
        those = labels != IGNORED
        if not bool(those.all()):
            logits, expected = logits[those], expected[those]
        found: Tensor = _Divergence.apply(logits, expected.to(logits.dtype))  # type: ignore[no-untyped-call]
        return found


class _Divergence(torch.autograd.Function):
    """The mean divergence of ``logits`` from ``expected``, whose memory the gradient takes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, expected: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        for start in range(0, len(logits), _PLACES):
            rows = slice(start, start + _PLACES)
            p, q = expected[rows].log_softmax(-1), logits[rows].log_softmax(-1)
            shares = p.exp()
            total += (shares * (p - q)).sum(dtype=torch.float64)
            expected[rows] = (q.exp_() - shares).div_(len(logits))
        ctx.save_for_backward(expected)
        return (total / len(logits)).to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None
