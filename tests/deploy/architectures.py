"""Twenty small networks of kinds that differ in what their state holds; each maker gives one with random weights."""

import copy

import pytest
import torch
from torch import nn

ARCHITECTURES = {}


def architecture(make):
    ARCHITECTURES[make.__name__] = make
    return make


def of_transformers(kind, config, **options):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'zoo'")
    return getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = {"vocab_size": 64, **SIZES, "num_key_value_heads": 1}


@architecture
def cnn():
    return nn.Sequential(nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1, bias=False))


@architecture
def depthwise_separable():
    return nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32))


@architecture
def grouped():
    return nn.Sequential(nn.Conv2d(16, 16, 3, groups=2), nn.InstanceNorm2d(16, affine=True, track_running_stats=True))


@architecture
def transposed_with_batch_norm_fused():
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 2),
        nn.utils.fuse_conv_bn_eval(nn.Conv2d(16, 8, 3).eval(), nn.BatchNorm2d(8).eval()),
    )


@architecture
def one_and_three_dimensions():
    return nn.ModuleList([nn.Conv1d(8, 8, 5), nn.Conv3d(4, 8, (1, 2, 3))])


@architecture
def ragged():
    return nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 6), nn.Linear(6, 1))


@architecture
def half_precision():
    return nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 32)).half()


@architecture
def dtypes_mixed():
    return nn.ModuleDict({"a": nn.Linear(16, 16).bfloat16(), "b": nn.Linear(16, 8).double(), "c": nn.Conv2d(8, 8, 1)})


@architecture
def channels_last():
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 1)).to(memory_format=torch.channels_last)


@architecture
def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False)


@architecture
def cross_attention():
    return nn.MultiheadAttention(16, 2, kdim=8, vdim=12, add_bias_kv=True)


@architecture
def recurrent():
    return nn.Sequential(nn.Embedding(11, 8), nn.LSTM(8, 16, 2, bidirectional=True), nn.GRUCell(8, 4))


@architecture
def shared_and_tied():
    model = nn.ModuleDict({"words": nn.Embedding(24, 16), "inner": nn.Linear(16, 16), "head": nn.Linear(16, 24)})
    model["head"].weight = model["words"].weight
    model["again"] = model["inner"]
    return model


@architecture
def weight_norm():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 8))


@architecture
def llama_tied():
    return of_transformers("LlamaForCausalLM", "LlamaConfig", **WORDS, tie_word_embeddings=True)


@architecture
def mixtral():
    return of_transformers("MixtralForCausalLM", "MixtralConfig", **WORDS, num_local_experts=4)


@architecture
def qwen_experts():
    return of_transformers(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig", **WORDS, num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2
    )


@architecture
def vit():
    return of_transformers("ViTForImageClassification", "ViTConfig", **SIZES, image_size=16, patch_size=4)


@architecture
def bert():
    return of_transformers("BertForMaskedLM", "BertConfig", vocab_size=64, **SIZES)


@architecture
def gpt2():
    return of_transformers(
        "GPT2LMHeadModel", "GPT2Config", vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2
    )


def other(model):
    """A copy with other values everywhere, that it be seen which are loaded."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.copy_(
                tensor + 1 if tensor.is_floating_point() else ~tensor if tensor.dtype == torch.bool else tensor + 1
            )
    return twin


def bits(tensor):
    """The bytes of a tensor, in the order of its elements."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
