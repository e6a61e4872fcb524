"""Small random models of every kind, with batches that they take."""

import os

import pytest
import torch
from torch import nn


def _transformers():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers")


def tokens(count=3, size=2, length=9, padded=False):
    generator = torch.Generator().manual_seed(1)
    batches = [{"input_ids": torch.randint(64, (size, length), generator=generator)} for _ in range(count)]
    for number, batch in enumerate(batches):
        if padded:
            batch["attention_mask"] = torch.ones(size, length, dtype=torch.int64)
            batch["attention_mask"][0, length - 2 - number :] = 0
    return batches


def llama(layers=2):
    transformers = _transformers()
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def gemma():
    """Sliding and whole attention in turn, each with rotary embeddings of its own."""
    transformers = _transformers()
    config = transformers.Gemma3TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config).eval()


def mixtral():
    """Experts in packed weights, each given the tokens that are routed to it."""
    transformers = _transformers()
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=2,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


def bert():
    transformers = _transformers()
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.BertForSequenceClassification(config).eval()


def t5():
    transformers = _transformers()
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return transformers.T5ForConditionalGeneration(config).eval()


def t5_batches():
    return [{**batch, "decoder_input_ids": batch["input_ids"][:, :5]} for batch in tokens()]


def vit():
    transformers = _transformers()
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4
    )
    return transformers.ViTForImageClassification(config).eval()


def pictures(count=3, size=4, side=16):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, side, side, generator=generator) for _ in range(count)]


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def vectors():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 7, 32, generator=generator) for _ in range(3)]
