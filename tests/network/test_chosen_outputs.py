"""Models of ``transformers`` that return hidden states beside what one wants: how much a choice of outputs frees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparselab.core.patterns import Pattern
from sparselab.network.analysis import analyse
from sparselab.network.free_axes import free_axes
from sparselab.network.named_axes import chosen_layers
from sparselab.network.outputs import OutputChoice
from sparselab.network.permuting import permute
from sparselab.network.search_problems import consumers_of, fills_groups_of
from sparselab.reproduce.architectures import random_weights

from .helpers import relative_error

pytest.importorskip("transformers")

_BART = {
    "vocab_size": 100,
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
}
_T5 = {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4}
_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
_CLIP = {
    "text_config": {**_TOWER, "vocab_size": 100, "max_position_embeddings": 32, "eos_token_id": 2},
    "vision_config": {**_TOWER, "image_size": 32, "patch_size": 16},
    "projection_dim": 32,
}
_WHISPER = {**_BART, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32, "pad_token_id": 0}
_LLAMA = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


FIRST = "model.encoder.conv1.weight"  # Whisper's, which reads the input


def ids(length: int = 8) -> torch.Tensor:
    return torch.randint(3, 90, (2, length), generator=torch.Generator().manual_seed(0))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


TEXTS = {"input_ids": ids(), "decoder_input_ids": ids(6)}
SPEECH = {"input_features": noise(2, 16, 40), "decoder_input_ids": ids(6)}
CASES = {
    "BART": (random_weights("BartForConditionalGeneration", "BartConfig", _BART), TEXTS, "logits"),
    "T5": (random_weights("T5ForConditionalGeneration", "T5Config", _T5), TEXTS, "logits"),
    "CLIP": (
        random_weights("CLIPModel", "CLIPConfig", _CLIP),
        {"input_ids": ids(), "pixel_values": noise(2, 3, 32, 32)},
        ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
    ),
    "Whisper": (random_weights("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER), SPEECH, "logits"),
    "Llama with its cache": (
        random_weights("LlamaForCausalLM", "LlamaConfig", _LLAMA),
        {"input_ids": ids()},
        "logits",
    ),
}


def chosen(outputs, names) -> list[torch.Tensor]:
    return [outputs[name] for name in ([names] if isinstance(names, str) else names)]


def could_move(model: torch.nn.Module, inputs, outputs=None) -> tuple[int, float]:
    """How many weights are eligible, and the percent of their numbers that some axis can permute."""
    analysis = analyse(model, inputs, OutputChoice.of(outputs))
    layers = chosen_layers(model, Pattern.parse("2:4"), None, None)
    axes, consumers = free_axes(analysis), consumers_of(analysis, layers)
    free = [c.layer for c in consumers if any(fills_groups_of(axis, c, 4) for axis in axes)]
    total, moving = (sum(layer.weight.numel() for layer in some) for some in (layers, free))
    return len(layers), 100 * moving / total


def row(name: str) -> str:
    """The row of the table in ``docs/axes.md``."""
    build, inputs, outputs = CASES[name]
    model = build()
    (count, before), (_, after) = could_move(model, inputs), could_move(model, inputs, outputs)
    return f"| {name} | {count} | {before:.1f} | {after:.1f} | {outputs if isinstance(outputs, str) else ', '.join(outputs)} |"


@pytest.mark.parametrize("name", CASES)
def test_a_choice_frees_what_the_report_and_the_documentation_say(name: str) -> None:
    build, inputs, outputs = CASES[name]
    model = build()
    strict = permute(model, inputs, strategy="identity", verify=False)
    assert strict.suggestion is not None
    assert list(strict.suggestion.outputs) == ([outputs] if isinstance(outputs, str) else outputs)
    freed = could_move(model, inputs, outputs)[1] - could_move(model, inputs)[1]
    assert 100 * strict.suggestion.share == pytest.approx(freed)
    with torch.no_grad():
        before = chosen(model(**inputs), outputs)
        report = permute(model, inputs, strategy="random,20", outputs=outputs)
        assert relative_error(before, chosen(model(**inputs), outputs)) < 1e-4
    assert report.max_rel_error <= report.tolerance
    assert not {"pinned", "rolled_back"} & set(report.weights.loc[report.weights["weight"] != FIRST, "status"])
    assert row(name) in (Path(__file__).parents[2] / "docs" / "axes.md").read_text()


def test_a_cache_in_another_order_is_still_the_models_own() -> None:
    """Generation with a cache, token by token, gives what it gave before."""
    build, inputs, _ = CASES["Llama with its cache"]
    model = build()
    greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "use_cache": True}
    before = model.generate(**inputs, **greedy)
    report = permute(model, inputs, strategy="random,20", outputs="logits")
    assert any(name.startswith("past_key_values") for name in report.differing)
    assert torch.equal(model.generate(**inputs, **greedy), before)
