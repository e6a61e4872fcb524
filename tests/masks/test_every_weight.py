"""Every floating-point parameter of two or more dimensions stands in every table, and what is prunable is pruned."""

from __future__ import annotations

import logging
import re
from functools import partial

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.layers import layer_weights
from sparselab.core.weight_matrix import channel_dim_of

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER = {**SIZES, "num_key_value_heads": 2, "vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 16},
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "GptOss": {"num_local_experts": 4, "head_dim": 8, "num_experts_per_tok": 2},
    "Llama4": {"num_local_experts": 4, "head_dim": 8, "intermediate_size_mlp": 32},
    "JetMoe": {"num_local_experts": 4, "kv_channels": 8},
}


def transformer(name, head="ForCausalLM", **options):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'zoo'")
    config = getattr(transformers, ("Llama4Text" if name == "Llama4" else name) + "Config")
    return getattr(transformers, name + head)(config(**options)).eval()


class Einsum(nn.Module):
    """Raw parameters: heads packed in three dimensions, a position for each token, an offset."""

    def __init__(self):
        super().__init__()
        self.heads = nn.Parameter(torch.randn(2, 8, 4))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.offset = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return torch.einsum("bti,hio->bhto", x + self.positions + self.offset, self.heads)


class Turned(nn.Module):
    """Input channels first."""

    def __init__(self, channels=16, outputs=6):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, outputs))

    def forward(self, x):
        return x @ self.weight


PLAIN = {
    "lstm": lambda: nn.LSTM(8, 12, 2, bidirectional=True, proj_size=4),
    "gru cell": lambda: nn.Sequential(nn.GRUCell(8, 8), nn.RNN(8, 8)),
    "einsum": Einsum,
    "bilinear": lambda: nn.Sequential(nn.Bilinear(8, 8, 4), nn.LayerNorm([4, 4])),
    "bags": lambda: nn.ModuleDict({"bag": nn.EmbeddingBag(9, 8), "conv": nn.Conv1d(8, 8, 3), "up": nn.ConvTranspose1d(8, 8, 3)}),
    "attention": lambda: nn.ModuleList(
        [nn.MultiheadAttention(8, 2, add_bias_kv=True), nn.MultiheadAttention(8, 2, kdim=4), nn.ParameterList([torch.ones(2, 2)])]
    ),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(8, 8)),
    "half, and quantised ids": lambda: nn.ModuleDict({"e": nn.Embedding(4, 4).half(), "l": nn.Linear(8, 8).bfloat16()}),
}  # fmt: skip
WHOLE = {
    **{name: partial(transformer, name, **{**DECODER, **options}) for name, options in EXPERTS.items()},
    "XLNet": lambda: transformer("XLNet", "Model", d_model=16, n_layer=1, n_head=2, d_inner=24, vocab_size=32),
    "T5": lambda: transformer("T5", "ForConditionalGeneration", d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=32),
    "Bert": lambda: transformer("Bert", "ForMaskedLM", **SIZES, vocab_size=32),
    "CLIPText": lambda: transformer("CLIPText", "Model", **SIZES, vocab_size=32, projection_dim=8, max_position_embeddings=8),
    "GPT2": lambda: transformer("GPT2", "LMHeadModel", n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16),
}  # fmt: skip


def rows_of(model, **options):
    """The rows of every table by the names that they have for their weights."""
    return {
        "report": sl.magnitude_report(model, "2:4", **options).set_index("layer"),
        "check": sl.check(model, **options).set_index("layer"),
        "frame": sl.Sparsifier(model, "2:4", **options).frame.set_index("layer"),
    }


@pytest.mark.parametrize("make", [*PLAIN.values(), *WHOLE.values()], ids=[*PLAIN, *WHOLE])
def test_rows_are_the_parameters_of_two_or_more_dimensions(make):
    model = make()
    expected = {name for name, p in model.named_parameters() if p.ndim >= 2 and p.is_floating_point()}
    every_name = dict(model.named_parameters(remove_duplicate=False))
    for table, rows in rows_of(model).items():
        assert rows.index.is_unique
        more = set(rows.index) - expected
        assert expected <= set(rows.index), table
        # beside them: a layer that is tied to an embedding, and what a parametrisation computes
        for name in more:
            assert name not in every_name or any(every_name[name] is every_name[other] for other in expected), name
        unjudged = rows["violations"].isna() if table == "check" else ~rows["eligible"]
        assert (rows["reason"][unjudged].str.len() > 0).all()
        if table == "check":
            assert not rows["sparse"][unjudged].any()
    weights = sum(p.numel() for name, p in model.named_parameters() if name in expected)
    if not more:
        assert sl.magnitude_report(model, "2:4").attrs["whole_model"]["weights"] == weights


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("0.weight", lambda: nn.Sequential(nn.Embedding(8, 8)), "rows of an embedding are looked up"),
        ("weight_ih_l0", lambda: nn.LSTM(8, 8), r"a recurrent layer; custom=\{LSTM: \['weight_ih_l0'\]\} prunes it"),
        ("weight", lambda: nn.Bilinear(8, 8, 8), "two dimensions of input channels, 1 and 2"),
        ("heads", Einsum, r"a raw parameter, .*custom=\{Einsum: \{'heads': DIMENSION\}\} says so"),
        ("bias_k", lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True), "a bias is added, not multiplied"),
        ("weight", lambda: nn.LayerNorm([4, 8]), "a norm scales each entry by itself"),
    ],
)
def test_reasons_name_the_way_out(name, make, reason):
    for table, rows in rows_of(make()).items():
        if table == "check" and "recurrent" in reason:
            assert rows.loc[name, "violations"] > 0  # what it multiplies is known, so it is judged
        else:
            assert re.search(reason, rows.loc[name, "reason"]), table


def test_a_pruned_model_with_a_dense_embedding_is_not_all_sparse():
    model = nn.ModuleDict({"e": nn.Embedding(8, 8), "fc": nn.Linear(16, 16)})
    sl.Sparsifier(model).compute()
    checked = sl.check(model).set_index("layer")
    assert checked["sparse"].to_dict() == {"e.weight": False, "fc.weight": True}
    assert checked.loc["e.weight", ["channel_dim", "groups", "violations"]].isna().all()
    assert not checked.loc["e.weight", "kernel"]


# ------------------------------------------------------------------------------------------------------ packed experts


def run(model):
    """A call of the model that reaches its experts."""
    torch.manual_seed(0)
    return model(input_ids=torch.randint(3, 32, (2, 16)))


@pytest.mark.parametrize("name", EXPERTS)
def test_the_contracted_dimension_is_that_of_gradients(name):
    """Where an expert is always given 0 in a channel, its weights there have no gradient: an oracle for the dimension."""
    model = transformer(name, **{**DECODER, **EXPERTS[name]})
    packed = [layer for layer in layer_weights(model) if layer.weight.ndim == 3 and layer.channel_dim < 0]
    assert packed
    assert {layer.name for layer in packed} == {n for n, p in model.named_parameters() if p.ndim == 3}
    silent, loud = 3, 2
    for layer in packed:
        if layer.attribute == "down_proj":
            continue  # the other way round: its outputs are the channels of the rest

        def silence(module, args, kwargs):
            states = args[0].clone() if args else kwargs["hidden_states"].clone()
            states[..., silent] = 0
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        handle = layer.module.register_forward_pre_hook(silence, with_kwargs=True)
        model.zero_grad()
        run(model).logits.square().sum().backward()
        handle.remove()
        slices = layer.weight.grad.movedim(layer.channel_dim, -1)
        assert float(slices[..., silent].abs().max()) == 0
        assert float(slices[..., loud].abs().max()) > 0


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:2:4", "m4n2_2d_best", "unstructured,0.5"])
@pytest.mark.parametrize("name", ["Mixtral", "GptOss"])
def test_experts_are_pruned_along_their_inputs(name, pattern):
    model = transformer(name, **{**DECODER, **EXPERTS[name]})
    packed = {layer.name: layer for layer in layer_weights(model) if layer.channel_dim < 0}
    dense = {name: layer.weight.detach().clone() for name, layer in packed.items()}
    sparsifier = sl.Sparsifier(model, pattern)
    frame = sparsifier.frame.set_index("layer").loc[list(packed)]
    assert frame["eligible"].all()
    assert (
        frame["note"].str.match(rf"4 packed experts, input channels in dimension [12]: {name}Experts of transf").all()
    )
    sparsifier.compute()
    for each, layer in packed.items():
        for number in range(4):
            matrix = dense[each][number] if layer.channel_dim == -1 else dense[each][number].T
            mask = layer.weight[number] != 0 if layer.channel_dim == -1 else (layer.weight[number] != 0).T
            if pattern.startswith("unstructured"):
                continue
            assert torch.equal(mask, sl.create_mask(matrix, pattern))  # each expert as a Linear of its own
        assert float((layer.weight != 0).float().mean()) == pytest.approx(0.25 if pattern == "1:4" else 0.5, abs=0.01)
    if pattern != "unstructured,0.5":
        checked = sl.check(model, pattern).set_index("layer")
        assert checked.loc[list(packed), "sparse"].all()
        assert (checked.loc[list(packed), "violations"] == 0).all()
        assert set(checked.loc[list(packed), "channel_dim"]) == {2 if name == "Mixtral" else 1}
        report = sl.magnitude_report(model, pattern).set_index("layer").loc[list(packed)]
        assert report["lost_percent"].abs().max() < 1e-6


# -------------------------------------------------------------------------------------------------------------- custom


@pytest.mark.parametrize("custom", [{Turned: {"weight": 0}}, {Turned: ["weight"]}, {Turned: "weight"}])
def test_custom_says_where_the_input_channels_are(custom):
    model = nn.Sequential(nn.Linear(8, 16), Turned(16, 8))
    dim = 0 if isinstance(custom[Turned], dict) else 1
    rows = rows_of(model, custom=custom)
    assert rows["report"].loc["1.weight", "channels"] == (16, 8)[dim]
    assert rows["check"].loc["1.weight", "channel_dim"] == dim
    assert rows["frame"].loc["1.weight", "note"] == f"input channels in dimension {dim}: custom"
    model = nn.Sequential(nn.Linear(8, 16), Turned(16, 8))
    sl.Sparsifier(model, "2:4", custom=custom).compute()
    groups = (model[1].weight != 0).movedim(dim, -1).reshape(-1, 4)
    assert torch.equal(groups.sum(-1), torch.full((len(groups),), 2))
    assert sl.check(model, custom=custom)["sparse"].all()
    assert not sl.check(model)["sparse"].all()


def test_custom_by_name_alone_leaves_known_dimensions_as_they_are():
    model = nn.Sequential(nn.ConvTranspose2d(8, 8, 1), Turned())
    custom = {nn.ConvTranspose2d: ["weight"], Turned: {"weight": 0}}
    assert sl.check(model, custom=custom)["channel_dim"].tolist() == [0, 0]


def test_custom_that_no_weight_can_be():
    model = nn.Sequential(Turned(), nn.Linear(8, 8))
    wrong = {
        r"custom: dimension 2 of Turned.weight, of shape \(16, 6\), cannot be": {Turned: {"weight": 2}},
        "custom: dimension 'in' of Turned.weight": {Turned: {"weight": "in"}},
        "custom: dimension 1 of Linear.bias": {nn.Linear: ["bias"]},
        "custom: dimension 0 of Linear.weight is given as that of its input channels; it is 1": {nn.Linear: {"weight": 0}},
        "custom names Turned.wieght, which no module of the model has": {Turned: ["wieght"]},
        r"give layer types, each with the names of its weights": {"Turned": ["weight"]},
    }  # fmt: skip
    for message, custom in wrong.items():
        for call in (sl.Sparsifier, lambda m, **o: sl.magnitude_report(m, "2:4", **o), sl.check):
            with pytest.raises(ValueError, match=message):
                call(model, custom=custom)
    with pytest.raises(ValueError, match="is for modules, whose types it names; got a OrderedDict"):
        sl.check(model.state_dict(), custom={Turned: ["weight"]})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_run_with_their_masked_weights(kind):
    model, names = kind(8, 12), ["weight_ih_l0", "weight_hh_l0"]
    x, custom = torch.randn(5, 2, 8), {kind: names}
    sparsifier = sl.Sparsifier(model, "2:4", custom=custom)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    model(x)[0].square().sum().backward()
    optimizer.step()
    fresh = kind(8, 12)  # whose weights were never flattened with others
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            getattr(fresh, name).copy_(parameter)
        for name in names:
            assert torch.equal(getattr(fresh, name) != 0, sparsifier.masks[name])
            assert float(sparsifier.masks[name].float().mean()) == 0.5
    torch.testing.assert_close(model(x)[0], fresh(x)[0])
    assert sl.check(model, custom=custom)["sparse"].all()
    assert list(sl.magnitude_report(model, "2:4", custom=custom)["eligible"]) == [True, True]
    assert list(sparsifier.frame["density"]) == [0.5, 0.5]


# ---------------------------------------------------------------------------------------------- choices that are said


class Adapted(nn.Module):
    """A layer with a low-rank adapter, under the names that PEFT gives."""

    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(16, 16)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(16, 8, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(8, 16, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def test_adapters_are_pruned_only_where_they_are_named(caplog):
    adapters = ["lora_A.default.weight", "lora_B.default.weight"]

    def eligible(**names):
        frame = sl.Sparsifier(Adapted(), "2:4", **names).frame
        return list(frame[frame["eligible"]]["layer"])

    assert eligible() == eligible(include="*") == ["base_layer.weight"]
    assert eligible(include=["*lora_A*"]) == adapters[:1]
    assert eligible(include=["base_layer", *adapters]) == ["base_layer.weight", *adapters]
    report = sl.magnitude_report(Adapted(), "2:4").set_index("layer")
    assert not report.loc[adapters, "eligible"].any()
    assert report.loc[adapters, "reason"].str.contains("LoRA adapter").all()
    caplog.clear()
    sparsifier = sl.Sparsifier(Adapted(), "2:4")
    sparsifier.compute()
    sparsifier.frame()
    assert [record.message for record in caplog.records if "LoRA" in record.message] == [
        "2 LoRA adapters are not pruned (lora_A.default.weight, ...): include=['*lora_A*', '*lora_B*'] would prune them"
    ]
    permuted = sl.permute(Adapted(), torch.randn(2, 16), "2:4")
    assert not set(adapters) & set(permuted.weights["weight"])


def test_peft_adapters_stay_dense():
    peft = pytest.importorskip("peft", reason="needs peft")
    model = transformer("Llama", **DECODER)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["q_proj", "embed_tokens"]))
    frame = sl.Sparsifier(adapted, "2:4").frame
    small = frame["layer"].str.contains("lora_")
    assert small.sum() == 4
    assert not frame[small]["eligible"].any()
    assert frame[frame["layer"].str.contains("q_proj.base_layer")]["eligible"].all()


@pytest.mark.parametrize("head_first", [False, True])
def test_a_tied_embedding_is_said_to_be_pruned_through_the_head(head_first, caplog):
    embedding, head = nn.Embedding(16, 16), nn.Linear(16, 16, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"head": head, "e": embedding} if head_first else {"e": embedding, "head": head})
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    frame = sparsifier.frame.set_index("layer")
    note = "tied: e.weight is the same tensor, so what is pruned here is pruned there"
    assert frame.loc["head.weight", ["eligible", "note"]].tolist() == [True, note]
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [f"head.weight is pruned; {note}"]
    if not head_first:
        assert frame.loc["e.weight", "reason"] == "tied: the same tensor as head.weight, which has a row of its own"
        assert sl.check(model)["sparse"].tolist() == [True, True]
    assert sl.magnitude_report(model, "2:4").attrs["whole_model"]["weights"] == 256
    assert list(sparsifier.masks) == ["head.weight"]
    assert channel_dim_of(embedding, "weight") is None


# ------------------------------------------------------------------------------------------- told by the traced graph


class Heads(nn.Module):
    """Packed matrices in ways that a trace can follow, and parameters that are no packed matrices."""

    def __init__(self):
        super().__init__()
        sizes = {
            "summed": (2, 8, 12),
            "turned": (2, 12, 8),
            "picked": (2, 8, 8),
            "chosen": (2, 16, 8),
            "two": (8, 2, 4),
        }
        for name, size in {**sizes, "added": (2, 8, 8), "both": (2, 8, 8), "unused": (2, 8, 8)}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(size)))

    def forward(self, x):  # (batch, 8)
        y = torch.einsum("bi,hio->hbo", x, self.summed)
        y = torch.bmm(y, self.turned)
        y = sum(torch.nn.functional.linear(y[head], self.picked[head]) for head in range(2))
        y = torch.matmul(self.chosen[torch.tensor([1, 0])], y.T).sum((0, 2))[:8] + y
        z = torch.einsum("bi,ihd->bhd", y, self.two).flatten(1)
        return (z @ (self.added + 1)) @ self.both @ self.both.mT


def test_a_trace_tells_which_dimension_packed_matrices_sum_over():
    model, x = Heads().eval(), torch.randn(4, 8)
    told = {"summed": 1, "turned": 1, "picked": 2, "chosen": 2}
    plain = sl.Sparsifier(Heads(), "2:4").frame
    assert not plain["eligible"].any()
    assert plain["reason"].str.contains("example_inputs of a Sparsifier").all()
    sparsifier = sl.Sparsifier(model, "2:4", example_inputs=x)
    frame = sparsifier.frame.set_index("layer")
    assert set(frame.index[frame["eligible"]]) == set(told)
    for name, dim in told.items():
        assert frame.loc[name, "note"].startswith(f"packed matrices, input channels in dimension {dim}: the traced")
    sparsifier.compute()
    assert sl.check(model, custom={Heads: told}).set_index("layer").loc[list(told), "sparse"].all()
    # an oracle: with x silent in a channel, what sums over it has no gradient there
    x[:, 3] = 0
    model(x).square().sum().backward()
    assert float(model.summed.grad[:, 3].abs().max()) == 0


def test_a_model_whose_raw_parameters_are_no_matrices_is_not_traced(monkeypatch):
    monkeypatch.setattr("sparselab.network.contracted.trace", None)
    model = nn.ModuleList([nn.Linear(8, 8), nn.ParameterList([torch.ones(1, 5, 8)])])
    assert len(sl.Sparsifier(model, "2:4", example_inputs=torch.randn(2, 8)).frame) == 2


def test_asp_asks_its_multiples_of_each_expert():
    model = transformer("Mixtral", **{**DECODER, **EXPERTS["Mixtral"]})
    frame = sl.Sparsifier(model, "2:4", rule="asp").frame.set_index("layer")
    packed = frame[frame.index.str.contains("experts")]
    assert packed["reason"].tolist() == ["", "size(2) = 24 is not a multiple of 16"]


def test_what_cannot_be_traced_stays_unknown_and_says_so(caplog):
    class Stubborn(Heads):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) > 0 else x

    frame = sl.Sparsifier(Stubborn(), "2:4", example_inputs=torch.randn(4, 8)).frame
    assert not frame["eligible"].any()
    assert any("input channels of summed, ... stay unknown" in record.message for record in caplog.records)
