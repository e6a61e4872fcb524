"""Metrics of language models: how well the next token is foretold, and how far from another model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sparselab.core.models import running
from sparselab.metrics.classification import IGNORED, split
from sparselab.metrics.metric import Batch, Mean


def foretold(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """``(logits, next tokens)`` of every place that has a next token, ``(places, vocabulary)`` and ``(places,)``.

    A batch is a dict with ``labels``, or ``(tokens, labels)``: labels are the tokens themselves,
    ``(samples, tokens)``, ``IGNORED`` (-100) where a token is context only. Place ``i`` foretells
    label ``i + 1``. Logits are float32 or float64.
    """
    inputs, labels = split(batch)
    with running(model, "the tokens of a batch", "A batch is (tokens, labels), or a dict with labels"):
        answer = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = getattr(answer, "logits", answer)
    logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return logits if logits.dtype.itemsize >= 4 else logits.float(), labels


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of the next token, in nats: what language models are trained by."""
    return F.cross_entropy(*foretold(model, batch), ignore_index=IGNORED)


class Perplexity(Mean):
    """``exp`` of the mean cross-entropy of the next token, over all tokens of all batches.

    Every token counts once, so batches and windows of different lengths are right. Batches are as
    ``foretold`` takes them; the first token of a sample is foretold by nothing and does not count.
    Cross-entropies are float32 (float64 for such logits), their sum float64.
    """

    name, label, higher_is_better = "perplexity", "perplexity", False

    def sums(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Cross-entropy and tokens of a batch."""
        logits, labels = foretold(model, batch)
        each = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
        return float(each.double().sum()), int((labels != IGNORED).sum())

    def compute(self) -> float:
        """The perplexity; infinite where it is too large for a float."""
        nats = super().compute()
        return math.exp(nats) if nats < 700 else math.inf


class Divergence(Mean):
    """Kullback and Leibler's divergence of the model from a ``reference``, in nats for each token.

    ``sum p log(p / q)`` over the vocabulary, ``p`` what the reference foretells, averaged over the
    tokens that count. ``reference`` is a function that makes the model; it is called when it is
    first needed, and its answer kept. Memory: that model, and logits twice.
    """

    name, label, higher_is_better = "kl", "KL to dense (nats)", False

    def __init__(self, reference: Callable[[], nn.Module]) -> None:
        self.reference = reference if isinstance(reference, DenseReference) else DenseReference(reference)

    def sums(self, model: nn.Module, batch: Batch) -> tuple[float, int]:
        """Divergence and tokens of a batch."""
        logits, labels = foretold(model, batch)
        those = labels != IGNORED
        expected, _ = foretold(self.reference.on(logits.device), batch)
        found = F.log_softmax(logits[those], dim=-1)
        each = F.kl_div(found, F.log_softmax(expected[those], dim=-1), reduction="none", log_target=True)
        return float(each.sum(-1).double().sum()), int(those.sum())

    def identity(self) -> list[Any]:
        """The class; which model is the reference is the task's business."""
        return [type(self).__module__, type(self).__qualname__]


class DenseReference:
    """A model that others are compared with: it is made once, however often what refers to it is copied."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = make
        self.model: nn.Module | None = None

    def on(self, device: Any) -> nn.Module:
        """The model in evaluation mode on ``device``."""
        if self.model is None:
            self.model = self.make().eval()
        return self.model.to(device)

    def __call__(self) -> nn.Module:
        """Another one like it."""
        return self.make()

    def __deepcopy__(self, memo: dict[int, Any]) -> DenseReference:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self.make, "model": None}
