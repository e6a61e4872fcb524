"""Architectures that ``transformers`` builds, all weights random: how much of each can be permuted, and what stays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sparselab.network.permuting import permute
from sparselab.reproduce.section import Section, Settings, markdown_table
from sparselab.tasks.sentiment import minilm

TITLE = "Which weights of which architectures move"


def tokens() -> dict[str, Tensor]:
    """Ids of two texts of twelve tokens."""
    return {"input_ids": torch.randint(90, (2, 12), generator=torch.Generator().manual_seed(0))}


def pictures() -> Tensor:
    """Two pictures of 64 x 64."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, eq=False)
class Architecture:
    """What ``build`` makes, in evaluation mode, and the ``inputs`` that it takes."""

    title: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any] = pictures


def random_weights(model: str, config: str, options: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """Builds ``model`` of the package transformers with ``config``, every parameter and floating-point buffer random.

    Fresh norms are all ones and zeros: a forgotten one would not show.
    """

    def build() -> nn.Module:
        import transformers

        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity(logging.ERROR)
        try:
            built: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options)).eval()
        finally:
            transformers.logging.set_verbosity(verbosity)
        randomise(built)
        return built

    return build


_TEXT = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_GPT2 = {
    "vocab_size": 100,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_LLAMA = {**_TEXT, "num_key_value_heads": 2, "use_cache": False}
_T5 = {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
_VIT = {**_TEXT, "image_size": 64}
_SWIN = {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_RESNET = {"embedding_size": 16, "hidden_sizes": [32, 64, 64, 128], "depths": [2] * 4}
_REGNET = {"hidden_sizes": [32, 48, 64, 64], "depths": [1, 2, 2, 1], "groups_width": 16}
_CONVNEXT = {"hidden_sizes": [16, 32, 48, 64], "depths": [1] * 4}

ARCHITECTURES: Mapping[str, Architecture] = {
    "vit": Architecture("ViT", random_weights("ViTForImageClassification", "ViTConfig", _VIT)),
    "swin": Architecture("Swin", random_weights("SwinForImageClassification", "SwinConfig", _SWIN)),
    "bert": Architecture("BERT", random_weights("BertForSequenceClassification", "BertConfig", _TEXT), tokens),
    "gpt2": Architecture("GPT-2", random_weights("GPT2LMHeadModel", "GPT2Config", _GPT2), tokens),
    "llama": Architecture("Llama, grouped queries", random_weights("LlamaForCausalLM", "LlamaConfig", _LLAMA), tokens),
    "t5": Architecture("T5, token head", random_weights("T5ForTokenClassification", "T5Config", _T5), tokens),
    "minilm": Architecture("MiniLM, its real weights", minilm, tokens),
    "resnet": Architecture("ResNet", random_weights("ResNetForImageClassification", "ResNetConfig", _RESNET)),
    "mobilenet_v2": Architecture(
        "MobileNetV2",
        random_weights("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.5}),
    ),
    "regnet": Architecture("RegNet", random_weights("RegNetForImageClassification", "RegNetConfig", _REGNET)),
    "convnext": Architecture("ConvNeXt", random_weights("ConvNextForImageClassification", "ConvNextConfig", _CONVNEXT)),
}


@dataclass(frozen=True)
class Row:
    """What ``permute`` did to one architecture.

    ``left`` says why, for the weights that were not permuted, and how many.
    """

    model: str
    weights: int
    permuted: int
    share_percent: float
    error: float
    tolerance: float
    left: Mapping[str, int] = field(default_factory=dict)


def moved(title: str, model: nn.Module, inputs: Any) -> Row:
    """Permute ``model`` in place for 2:4, quickly rather than well, and count."""
    report = permute(model, inputs, "2:4", strategy="channel_swap")
    weights = report.weights
    left = weights[weights["status"] != "permuted"]
    return Row(
        title,
        len(weights),
        int((weights["status"] == "permuted").sum()),
        100 * report.share_permuted,
        report.max_rel_error,
        report.tolerance,
        dict(left["reason"].value_counts()),
    )


def table(rows: Iterable[Row]) -> str:
    """As Markdown. The last column is rounding, and differs from machine to machine."""
    frame = pd.DataFrame(
        {
            "model": row.model,
            "eligible weights": row.weights,
            "permuted": row.permuted,
            "of all their numbers, %": row.share_percent,
            "not permuted, and why": "; ".join(f"{count}: {reason}" for reason, count in row.left.items()),
            "outputs differ by": f"{row.error:.0e}",
        }
        for row in rows
    )
    return markdown_table(frame, {"of all their numbers, %": ".1f"})


def run(settings: Settings) -> Section:
    """The table of all architectures."""
    try:
        rows = [moved(each.title, each.build(), each.inputs()) for each in ARCHITECTURES.values()]
    except ModuleNotFoundError as error:
        return Section(TITLE, f'Skipped: {error.name} is missing; pip install "sparselab[zoo]" has it.')
    text = f"""Small models with random weights, as `transformers` builds them from a config, and MiniLM, permuted for 2:4.
Nothing in `permute` knows their names. Outputs before and after are compared in float64, relative to the largest; the norms of
Llama and T5 compute in float32.

{table(rows)}"""
    frame = pd.DataFrame([{**vars(row), "left": "; ".join(row.left)} for row in rows])
    return Section(TITLE, text, {"architectures": frame})


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Make every parameter and floating-point buffer of the state random, in place.

    Their size keeps outputs moderate.
    """
    generator = torch.Generator().manual_seed(seed)
    known = set(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            fan = max(1, parameter[0].numel() if parameter.ndim > 1 else 1)
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan**0.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and name in known:
                noise = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
                buffer.copy_(noise + 0.5 if "var" in name else noise - 0.5)
