"""Models that ``transformers`` builds from a config, all weights random: nothing keyed on their names, all of them move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sparselab.network.permuting import permute

from .helpers import outputs_of, randomised, relative_error, shuffled

transformers = pytest.importorskip("transformers")

IDS = torch.randint(90, (2, 12), generator=torch.Generator().manual_seed(0))
PICTURE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TEXT: dict[str, Any] = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def build(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**options))


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "resnet": (
        build(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=16,
            hidden_sizes=[32, 64, 64, 128],
            depths=[2] * 4,
        ),
        PICTURE,
    ),
    "mobilenet_v2": (
        build("MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.5),
        PICTURE[..., :32, :32],
    ),
    "regnet": (
        build(
            "RegNetForImageClassification",
            "RegNetConfig",
            hidden_sizes=[32, 48, 64, 64],
            depths=[1, 2, 2, 1],
            groups_width=16,
        ),
        PICTURE,
    ),
    "convnext": (
        build("ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[16, 32, 48, 64], depths=[1] * 4),
        PICTURE,
    ),
    "vit": (
        build(
            "ViTForImageClassification",
            "ViTConfig",
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=64,
        ),
        PICTURE,
    ),
    "swin": (
        build(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=64,
            embed_dim=32,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        PICTURE,
    ),
    "bert": (
        build("BertForSequenceClassification", "BertConfig", **TEXT, intermediate_size=128),
        {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)},
    ),
    "gpt2": (
        build(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=100,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=32,
            use_cache=False,
            bos_token_id=1,
            eos_token_id=1,
        ),
        {"input_ids": IDS},
    ),
    "llama": (
        build("LlamaForCausalLM", "LlamaConfig", **TEXT, num_key_value_heads=2, intermediate_size=128, use_cache=False),
        {"input_ids": IDS},
    ),
    "t5": (
        build(
            "T5ForTokenClassification",
            "T5Config",
            vocab_size=100,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
        ),
        {"input_ids": IDS},
    ),
}
COMPUTES_IN_FLOAT32 = {"llama", "t5"}  # their norms do, whatever the model's dtype


@pytest.mark.parametrize("name", MODELS)
def test_random_orders_change_nothing(name: str) -> None:
    make, inputs = MODELS[name]
    _, axes, error = shuffled(make(), inputs)
    assert len(axes) > 5
    assert error < (1e-5 if name in COMPUTES_IN_FLOAT32 else 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_nearly_every_eligible_weight_has_its_input_channels_permuted(name: str) -> None:
    make, inputs = MODELS[name]
    model = randomised(make().eval())
    before = outputs_of(model, inputs)
    report = permute(model, inputs, strategy="channel_swap")
    assert report.share_permuted >= 0.95
    assert "rolled_back" not in set(report.frame["status"])
    assert relative_error(before, outputs_of(model, inputs)) < 1e-4


def test_a_cache_among_the_outputs_pins_and_is_named() -> None:
    model = build(
        "GPT2LMHeadModel",
        "GPT2Config",
        vocab_size=100,
        n_embd=64,
        n_layer=1,
        n_head=4,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=1,
    )()
    weights = permute(model.eval(), {"input_ids": IDS}, strategy="channel_swap").weights.set_index("weight")
    assert weights.loc["transformer.h.0.attn.c_proj.weight", "status"] == "pinned"
    assert "past_key_values" in weights.loc["transformer.h.0.attn.c_proj.weight", "reason"]
