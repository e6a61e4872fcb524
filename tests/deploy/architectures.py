"""Twenty small networks of kinds that differ in what their state holds; each maker gives one with random weights."""

import copy

import pytest
import torch
from torch import nn

import sparselab as sl

ARCHITECTURES = {}
"""By name, what makes a network."""

INPUTS = {}
"""By name, what makes the inputs of the network."""

PATTERNS = {}
"""By name, an N:M pattern that most of its weights can keep to."""

RECURRENT = {
    nn.LSTM: [
        f"weight_{kind}_l{layer}{end}" for layer in range(2) for end in ("", "_reverse") for kind in ("ih", "hh")
    ],
    nn.GRUCell: ["weight_ih", "weight_hh"],
}
"""``custom=`` for layers that are pruned only where a user names them."""


def architecture(inputs, pattern="2:4"):
    """Enter a maker, with what makes its inputs, under its own name."""

    def enter(make):
        ARCHITECTURES[make.__name__], INPUTS[make.__name__], PATTERNS[make.__name__] = make, inputs, pattern
        return make

    return enter


def numbers(*shapes, dtype=torch.float32):
    """A maker of random inputs, one for each of ``shapes``."""

    def make():
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)

    return make


def words(count, *shape):
    """A maker of random words out of ``count``."""
    return lambda: (torch.randint(0, count, shape, generator=torch.Generator().manual_seed(0)),)


def text(**more):
    """A maker of random words as models of ``transformers`` take them."""
    return lambda: {"input_ids": words(64, 2, 6)()[0], **more}


def of_transformers(kind, config, **options):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'zoo'")
    return getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = {"vocab_size": 64, **SIZES, "num_key_value_heads": 1}


@architecture(numbers((2, 4, 8, 8)), "1:4")
def cnn():
    return nn.Sequential(nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1, bias=False))


@architecture(numbers((2, 16, 8, 8)), "4:8")
def depthwise_separable():
    return nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32))


@architecture(numbers((2, 16, 8, 8)))
def grouped():
    return nn.Sequential(nn.Conv2d(16, 16, 3, groups=2), nn.InstanceNorm2d(16, affine=True, track_running_stats=True))


@architecture(numbers((2, 8, 6, 6)))
def transposed_with_batch_norm_fused():
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 2),
        nn.utils.fuse_conv_bn_eval(nn.Conv2d(16, 8, 3).eval(), nn.BatchNorm2d(8).eval()),
    )


class SideBySide(nn.ModuleList):
    """Each module for an input of its own."""

    def forward(self, *inputs):
        return tuple(module(each) for module, each in zip(self, inputs))


@architecture(numbers((2, 8, 12), (2, 4, 4, 4, 4)))
def one_and_three_dimensions():
    return SideBySide([nn.Conv1d(8, 8, 5), nn.Conv3d(4, 8, (1, 2, 3))])


@architecture(numbers((2, 10)), "1:2")
def ragged():
    return nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 6), nn.Linear(6, 1))


@architecture(numbers((2, 32), dtype=torch.float16))
def half_precision():
    return nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 32)).half()


class Mixed(nn.ModuleDict):
    """Modules of several dtypes, one after the other."""

    def forward(self, x, picture):
        return self["b"](self["a"](x.bfloat16()).double()), self["c"](picture)


@architecture(numbers((2, 16), (2, 8, 4, 4)))
def dtypes_mixed():
    return Mixed({"a": nn.Linear(16, 16).bfloat16(), "b": nn.Linear(16, 8).double(), "c": nn.Conv2d(8, 8, 1)})


@architecture(numbers((2, 8, 8, 8)), "2:8")
def channels_last():
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 1)).to(memory_format=torch.channels_last)


@architecture(numbers((2, 5, 16)), "4:8")
def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False)


@architecture(numbers((5, 2, 16), (4, 2, 8), (4, 2, 12)))
def cross_attention():
    return nn.MultiheadAttention(16, 2, kdim=8, vdim=12, add_bias_kv=True)


class Recurrent(nn.Sequential):
    """The states of a recurrent network, and those of a cell."""

    def forward(self, tokens):
        words = self[0](tokens)
        return self[1](words)[0], self[2](words[-1])


@architecture(words(11, 4, 3))
def recurrent():
    return Recurrent(nn.Embedding(11, 8), nn.LSTM(8, 16, 2, bidirectional=True), nn.GRUCell(8, 4))


class Shared(nn.ModuleDict):
    """One module called twice."""

    def forward(self, tokens):
        return self["head"](self["again"](self["inner"](self["words"](tokens))))


@architecture(words(24, 2, 5))
def shared_and_tied():
    model = Shared({"words": nn.Embedding(24, 16), "inner": nn.Linear(16, 16), "head": nn.Linear(16, 24)})
    model["head"].weight = model["words"].weight
    model["again"] = model["inner"]
    return model


@architecture(numbers((2, 16)))
def weight_norm():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 8))


@architecture(text(use_cache=False), "2:8")
def llama_tied():
    return of_transformers("LlamaForCausalLM", "LlamaConfig", **WORDS, tie_word_embeddings=True)


@architecture(text(use_cache=False))
def mixtral():
    return of_transformers("MixtralForCausalLM", "MixtralConfig", **WORDS, num_local_experts=4)


@architecture(text(use_cache=False), "1:4")
def qwen_experts():
    return of_transformers(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig", **WORDS, num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2
    )


@architecture(lambda: {"pixel_values": numbers((2, 3, 16, 16))()[0]})
def vit():
    return of_transformers("ViTForImageClassification", "ViTConfig", **SIZES, image_size=16, patch_size=4)


@architecture(text())
def bert():
    return of_transformers("BertForMaskedLM", "BertConfig", vocab_size=64, **SIZES)


@architecture(text(use_cache=False))
def gpt2():
    sizes = {"n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 2}
    return of_transformers("GPT2LMHeadModel", "GPT2Config", vocab_size=64, bos_token_id=1, eos_token_id=2, **sizes)


def pruned(name):
    """The architecture called ``name``, every weight that can keep to its pattern pruned to it, and moments of norms not 0 and 1."""
    model = ARCHITECTURES[name]().eval()
    with torch.no_grad():
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 2.0)
    sparsifier = sl.Sparsifier(model, PATTERNS[name], custom=RECURRENT if name == "recurrent" else None)
    sparsifier.compute()
    sparsifier.finalize()
    return model


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
