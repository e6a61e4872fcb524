"""Text to judge and to calibrate language models on, cut into windows of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparselab.core.folders import data_dir
from sparselab.core.registry import unknown_name
from sparselab.metrics.classification import IGNORED
from sparselab.metrics.metric import Batch

Tokenizer = Callable[[str], Any]
"""From a text to its tokens: a list of numbers, or what tokenizers of ``transformers`` return."""


@dataclass(frozen=True)
class Text:
    """A text with a ``name`` to be quoted by."""

    name: str
    content: str

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits of the SHA-256 of its UTF-8."""
        return hashlib.sha256(self.content.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def tokens(self, tokenizer: Tokenizer) -> Tensor:
        """All its tokens in a row, int64."""
        found = tokenizer(self.content)
        return torch.tensor(found["input_ids"] if isinstance(found, Mapping) else found)


@dataclass(frozen=True, eq=False)
class Windows:
    """``tokens`` cut into windows of ``context``, each ``stride`` further on; a shorter rest is left out.

    A batch is a dict with ``input_ids`` and ``labels``, int64 ``(windows, context)``. Every token of
    the text is a label at most once: what the window before had already is context only (-100).

    >>> windows = Windows(torch.arange(7), context=4, stride=2)
    >>> len(windows), windows[torch.tensor([1])]["labels"]
    (2, tensor([[-100, -100,    4,    5]]))
    """

    tokens: Tensor
    context: int = 512
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.context < 2 or not 1 <= self.step <= self.context:
            raise ValueError(
                f"context={self.context} must be at least 2, stride={self.stride} from 1 to context (None: context)"
            )
        if len(self.tokens) < self.context:
            raise ValueError(f"a text of {len(self.tokens)} tokens has no window of {self.context}; give a longer one")

    @property
    def step(self) -> int:
        """How much further on the next window begins."""
        return self.context if self.stride is None else self.stride

    def __len__(self) -> int:
        return (len(self.tokens) - self.context) // self.step + 1

    def __getitem__(self, indices: Tensor) -> Batch:
        starts = indices * self.step
        chosen = self.tokens[starts[:, None] + torch.arange(self.context)]
        seen = (indices > 0)[:, None] & (torch.arange(self.context) < self.context - self.step)
        return {"input_ids": chosen, "labels": chosen.masked_fill(seen, IGNORED)}

    def first(self, count: int | None) -> Windows:
        """The first ``count`` of them (``None``: all). Raises ``ValueError`` when there are fewer."""
        if count is None:
            return self
        if not 1 <= count <= len(self):
            raise ValueError(f"windows={count}: the text has {len(self)} windows of {self.context} tokens")
        return Windows(self.tokens[: (count - 1) * self.step + self.context], self.context, self.stride)


def texts(source: str = "auto", folder: str | Path | None = None) -> tuple[Text, Text]:
    """A text to judge on and another to calibrate and train on.

    ``"wikitext-2"``: ``wiki.test.raw`` and ``wiki.valid.tokens`` in ``folder`` (default:
    ``wikitext-2`` in the data folder, ``$SPARSELAB_DATA``). ``"python"``: the English that Python's
    own ``help("topics")`` prints, its last quarter to judge on. ``"auto"``: the first where its files
    are there, else the second. Raises ``ValueError`` for another source, and ``FileNotFoundError``
    saying what was looked for.
    """
    if source not in ("auto", "wikitext-2", "python"):
        raise unknown_name("text", source, ["auto", "wikitext-2", "python"])
    place = data_dir() / "wikitext-2" if folder is None else Path(folder).expanduser()
    files = [place / name for name in ("wiki.test.raw", "wiki.valid.tokens")]
    if source == "python" or (source == "auto" and folder is None and not all(file.is_file() for file in files)):
        return _topics()
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"no text: looked for {' and '.join(missing)}. Point SPARSELAB_DATA at a folder that holds "
            "wikitext-2/wiki.test.raw and wikitext-2/wiki.valid.tokens, or take text=python"
        )
    judged, other = (Text(f"wikitext-2/{file.name}", file.read_text(encoding="utf-8")) for file in files)
    return judged, other


def _topics() -> tuple[Text, Text]:
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    cut = whole.find("\n\n", 3 * len(whole) // 4)
    return Text("python topics, last quarter", whole[cut:]), Text("python topics, first three quarters", whole[:cut])
