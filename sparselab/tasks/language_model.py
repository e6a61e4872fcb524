"""Language models as tasks: perplexity on a text, calibration on another, and a protocol that says which."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from sparselab.core.models import device_of
from sparselab.core.registry import unknown_name
from sparselab.metrics.language import DenseReference, Divergence, Perplexity, next_token_loss
from sparselab.tasks.distillation import Distillation
from sparselab.tasks.task import Recipe, Task
from sparselab.tasks.text import Text, Tokenizer, Windows, texts


@dataclass(frozen=True)
class TextProtocol:
    """On which text a language model is judged, and on which it is calibrated: what a number means.

    ``text`` and ``calibration_text`` are names, with hashes of the contents; ``windows`` is how many
    windows are judged, each of ``context`` tokens, ``stride`` after the one before; ``dtype`` is the
    model's. Every row of a sweep has these fields, and ``str()`` is a caption.

    >>> print(TextProtocol("a.txt", "12ab", 8, 512, 512, "float32", "b.txt", "34cd"))
    a.txt (12ab), 8 windows of 512 tokens, stride 512, float32; calibration b.txt (34cd)
    """

    text: str
    text_hash: str
    windows: int
    context: int
    stride: int
    dtype: str
    calibration_text: str
    calibration_hash: str

    def __str__(self) -> str:
        return (
            f"{self.text} ({self.text_hash}), {self.windows} windows of {self.context} tokens, stride {self.stride}, "
            f"{self.dtype}; calibration {self.calibration_text} ({self.calibration_hash})"
        )


@dataclass(frozen=True, eq=False)
class LanguageModelTask(Task):
    """A task with the ``tokenizer`` of its model. Examples are windows of tokens."""

    tokenizer: Any = None

    def answer(self, model: nn.Module, text: str, tokens: int = 20) -> str:
        """``text`` and the ``tokens`` that ``model`` finds likeliest to follow, one after the other."""
        ids = Text("", text).tokens(self.tokenizer)[None].to(device_of(model))
        with torch.no_grad():
            for _ in range(tokens):
                logits = model(input_ids=ids).logits
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        return cast("str", self.tokenizer.decode(ids[0], skip_special_tokens=True))


FINETUNING = Recipe("adamw,1e-4", "cosine", epochs=0, batch_size=2, warmup=0.1)
"""Of decoders on a CPU: some tens of steps of two windows each; without ``steps`` there are none."""


LOSSES = ("next_token", "distil")
"""What fine-tuning may make small."""


def language_model_task(
    model: nn.Module | Callable[[], nn.Module],
    tokenizer: Tokenizer,
    text: str | tuple[str | Text, str | Text] = "auto",
    *,
    name: str = "language_model",
    windows: int | None = 8,
    context: int = 512,
    stride: int | None = None,
    include: tuple[str, ...] | None = None,
    recipe: Recipe | None = None,
    loss: str = "next_token",
    folder: str | None = None,
) -> LanguageModelTask:
    """A decoder of your own as a task: perplexity and the divergence from the dense model.

    ``model`` is the decoder (called with ``input_ids``, it returns logits or what has ``logits``) or
    a function that makes it; the task keeps a copy of its own, which is the dense reference.
    ``tokenizer`` is called with a text. ``text``: ``"auto"``, ``"wikitext-2"`` or ``"python"``
    (``sparselab.tasks.text.texts``), or a pair: what to judge on, what to calibrate and train on.
    Judged are the first ``windows`` (``None``: all) of ``context`` tokens, each ``stride`` (default:
    ``context``) after the one before. ``include`` are the layers to prune, ``recipe`` is that of
    fine-tuning; sweeps do not fine-tune unless told how many ``steps``. ``loss`` is what it makes
    small: ``"next_token"``, the cross-entropy of the text, or ``"distil"``, the divergence from the
    dense model (``Distillation``).

    Raises ``ValueError`` for a text that is too short and an unknown loss, ``FileNotFoundError`` for a
    text that is missing.
    """
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    make = model if not isinstance(model, nn.Module) else _Copies(copy.deepcopy(model))
    judged, other = (
        texts(text, folder)
        if isinstance(text, str)
        else (_as_text(text[0], "text"), _as_text(text[1], "calibration text"))
    )
    dense = DenseReference(make)
    held = Windows(judged.tokens(tokenizer), context, stride).first(windows)
    training = Windows(other.tokens(tokenizer), context)
    return LanguageModelTask(
        name=name,
        model=make,
        train_data=training,
        eval_data=held,
        loss=Distillation(dense) if loss == "distil" else next_token_loss,
        metrics=(Perplexity(), Divergence(dense)),
        example_inputs={"input_ids": held[torch.arange(1)]["input_ids"]},
        recipe=recipe or FINETUNING,
        include=include,
        evaluation_batch=1,
        calibration=16,
        protocol=_protocol(make, judged, other, held),
        tokenizer=tokenizer,
    )


@dataclass(frozen=True, eq=False)
class _Copies:
    """Copies of a model that stays as it is."""

    model: nn.Module

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.model)


def _as_text(given: str | Text, name: str) -> Text:
    return given if isinstance(given, Text) else Text(name, given)


def _protocol(make: Callable[[], nn.Module], judged: Text, other: Text, held: Windows) -> TextProtocol:
    dtype = getattr(make, "dtype", None) or str(next(make().parameters()).dtype).removeprefix("torch.")
    return TextProtocol(
        judged.name, judged.hash, len(held), held.context, held.step, str(dtype), other.name, other.hash
    )
