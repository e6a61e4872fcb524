"""What packed experts are given, one expert at a time, and what is scored by it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import sparselab as sl
from sparselab.core.layers import layer_weights
from sparselab.core.moves import Move
from sparselab.saliency import from_statistics
from sparselab.statistics import InputNorms, SecondMoments, collect, reconstruction_error

transformers = pytest.importorskip("transformers", reason="needs the extra 'zoo'")

DECODER = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "pad_token_id": 0,
}
EXPERTS = {
    "Mixtral": {"num_local_experts": 4},
    "GptOss": {"num_local_experts": 4, "head_dim": 4, "num_experts_per_tok": 2},
    "Llama4": {"num_local_experts": 4, "head_dim": 4, "intermediate_size_mlp": 12},
    "JetMoe": {"num_local_experts": 4, "kv_channels": 4},
}
KINDS = [InputNorms, SecondMoments]


def model_of(name):
    config = getattr(transformers, {"Llama4": "Llama4Text"}.get(name, name) + "Config")(**DECODER, **EXPERTS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / 3
    return model


def packed_of(model):
    return {layer.name: layer for layer in layer_weights(model) if layer.channel_dim < 0}


def batch(samples=2, tokens=24):
    return {"input_ids": torch.randint(3, 32, (samples, tokens))}


class Products(TorchFunctionMode):
    """Every product of something with one expert's matrix, as it is computed: the oracle."""

    def __init__(self, packed):
        super().__init__()
        self.packed = {layer.weight.untyped_storage().data_ptr(): layer for layer in packed.values()}
        self.seen = {name: {} for name in packed}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.nn.functional.linear, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm):
            inputs, weight = args[:2]
            layer = self.packed.get(weight.untyped_storage().data_ptr())
            if layer is not None:
                first = weight.storage_offset() // weight[0].numel() if weight.ndim == 3 else None
                each = enumerate(inputs) if first is not None else [(self.number(weight), inputs)]
                for number, one in each:
                    self.seen[layer.name].setdefault(number, []).append(one.detach().double())
        return function(*args, **(kwargs or {}))

    @staticmethod
    def number(weight):
        return weight.storage_offset() // weight.numel()


def eager(model):
    """The loop over experts that the model's own code has."""
    model.config._experts_implementation = "eager"
    return model


@pytest.mark.parametrize("name", EXPERTS)
def test_statistics_are_those_of_what_each_expert_multiplies(name):
    model, batches = model_of(name), [batch(), batch(1)]
    packed = packed_of(model)
    assert packed
    found = collect(model, batches, KINDS, dtype=torch.float64)
    products = Products(packed)
    with torch.no_grad(), products:
        for each in batches:
            eager(model)(**each)
    for name_, layer in packed.items():
        norms, moments = found[InputNorms][name_], found[SecondMoments][name_]
        channels = layer.weight.shape[layer.channel_dim]
        assert moments.sums.shape == (4, channels, channels)
        assert norms.groups == moments.groups == 4
        torch.broadcast_shapes(norms.norms.shape, layer.weight.shape)
        for number in range(4):
            x = torch.cat(products.seen[name_][number])
            torch.testing.assert_close(moments.sums[number], x.T @ x, rtol=1e-4, atol=1e-5)
            assert moments.counts[number] == len(x)
            expected = x.square().sum(0).sqrt()
            torch.testing.assert_close(norms.norms[number].flatten(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moments.norms().norms, norms.norms, rtol=1e-4, atol=1e-5)
        # the error of a changed weight is that of the outputs
        new = layer.weight.detach() * sl.create_mask(layer.weight, "2:4", channel_dim=layer.channel_dim)
        lost = whole = 0.0
        for number in range(4):
            x = torch.cat(products.seen[name_][number])
            old_w, new_w = (
                (w[number] if layer.channel_dim == -1 else w[number].T).detach().double() for w in (layer.weight, new)
            )
            lost += float((x @ (old_w - new_w).T).square().sum())
            whole += float((x @ old_w.T).square().sum())
        assert reconstruction_error(layer.weight, new, moments) == pytest.approx(100 * lost / whole, rel=1e-3)


@pytest.mark.parametrize("saliency", ["wanda", "ria", "ria,power=1"])
@pytest.mark.parametrize("name", ["Mixtral", "GptOss"])
def test_each_expert_is_scored_as_a_layer_of_its_own(name, saliency):
    model = model_of(name)
    found = collect(model, [batch()], KINDS)
    criteria = from_statistics(saliency, found)
    for each, layer in packed_of(model).items():
        scores = criteria[each](layer.weight)
        norms = found[InputNorms][each].norms
        for number in range(4):
            turn = (lambda w: w) if layer.channel_dim == -1 else (lambda w: w.T)
            alone = from_statistics(saliency, {InputNorms: {"w": InputNorms(norms[number].reshape(1, -1))}})["w"]
            torch.testing.assert_close(turn(scores[number]), alone(turn(layer.weight[number]).detach()))
    sparsifier = sl.Sparsifier(model, "2:4", saliency=criteria)
    sparsifier.compute()
    assert sl.check(model).set_index("layer").loc[list(packed_of(model)), "sparse"].all()
    pruned = sl.Sparsifier(model_of(name), "2:4", pruner=saliency, statistics=found)
    assert set(packed_of(model)) <= set(pruned.masks)


@pytest.mark.parametrize("name", ["Mixtral", "GptOss"])
def test_an_expert_without_a_token_is_named(name):
    model = model_of(name)
    router = next(module for module in model.modules() if type(module).__name__.endswith("Router"))
    with torch.no_grad():  # the first two experts win everywhere, so that the others see nothing
        router.weight.zero_()
        bias = torch.tensor([5.0, 4.0, 0.0, 0.0])
        if hasattr(router, "bias"):
            router.bias.copy_(bias)
        else:
            router.register_forward_pre_hook(lambda module, args: (args[0] * 0 + 1,))
            router.weight.copy_(bias[:, None].expand_as(router.weight))
    found = collect(model, [batch()], KINDS)
    message = "experts 2, 3 saw no token in calibration"
    for each, layer in packed_of(model).items():
        assert found[SecondMoments][each].counts == (48, 48, 0, 0)
        assert found[InputNorms][each].norms[2:].isnan().all()
        with pytest.raises(ValueError, match=message):
            found[SecondMoments][each].rows(layer.weight)
        with pytest.raises(ValueError, match=message):
            sl.saliency.scores(layer.weight, from_statistics("wanda", found)[each])
        with pytest.raises(ValueError, match=f"layer '{each}': {message}"):
            sl.magnitude_report(model, "2:4", saliency={**dict.fromkeys(dict(model.named_parameters()), "magnitude"),
                                                        each: from_statistics("ria", found)[each]})  # fmt: skip
    before = {each: p.detach().clone() for each, p in model.named_parameters()}
    for options in ({"saliency": from_statistics("wanda", found)}, {"pruner": "wanda", "statistics": found}):
        sparsifier = sl.Sparsifier(model, "2:4", **options)
        with pytest.raises(ValueError, match=f"layer '.*experts.gate_up_proj': {message}"):
            sparsifier.compute()
        assert all(torch.equal(p, before[each]) for each, p in model.named_parameters())
        sparsifier.finalize()
    sl.Sparsifier(model, "2:4", pruner="wanda", statistics=found, exclude="*experts*").compute()


def test_padding_does_not_count():
    model = model_of("Mixtral")
    short = batch(1, 16)
    padded = {
        "input_ids": torch.cat([short["input_ids"], torch.full((1, 6), 5)], 1),
        "attention_mask": torch.cat([torch.ones(1, 16), torch.zeros(1, 6)], 1).long(),
    }
    plain, masked = collect(model, [short], KINDS), collect(model, [padded], KINDS, mask="attention_mask")
    for each in packed_of(model):
        assert plain[SecondMoments][each].counts == masked[SecondMoments][each].counts
        torch.testing.assert_close(plain[SecondMoments][each].sums, masked[SecondMoments][each].sums)
        torch.testing.assert_close(plain[InputNorms][each].norms, masked[InputNorms][each].norms)


@pytest.mark.parametrize("channel_dim", [-1, -2])
def test_statistics_of_experts_follow_a_move(channel_dim):
    shape = (3, 4, 6)
    channels = shape[channel_dim]
    x = [torch.randn(9, channels, dtype=torch.float64) for _ in range(3)]
    moments = SecondMoments(torch.stack([one.T @ one for one in x]), (9, 9, 9), shape, channel_dim)
    for dim in range(3):
        order = torch.randperm(shape[dim]).numpy()
        move = Move(("w",), shape, dim, dim, order)
        moved, norms = moments.moved(move), moments.norms().moved(move)
        for number in range(3):
            old = int(order[number]) if dim == 0 else number
            seen = x[old][:, order] if dim == channel_dim % 3 else x[old]
            torch.testing.assert_close(moved.sums[number], seen.T @ seen)
            torch.testing.assert_close(norms.norms[number].flatten()[:channels], seen.square().sum(0).sqrt())
    rows = torch.randn(shape)
    assert torch.equal(moments.from_rows(moments.rows(rows)), rows)
    with pytest.raises(ValueError, match="expert 1 saw no token"):
        SecondMoments(moments.sums, (9, 0, 9), shape, channel_dim).rows(rows)


def test_statistics_follow_a_permutation_through_experts():
    """What was collected before, moved, is what would be collected after."""
    model, batches = model_of("Llama4"), [batch()]
    found = collect(model, batches, KINDS)
    report = sl.permute(model, batches[0], "2:4", strategy="channel_swap")
    experts = [name for name in packed_of(model) if name in set(report.weights["weight"])]
    assert set(report.plan.moved(found[SecondMoments])) >= set(experts) == set(packed_of(model))
    assert {name for move in report.plan.moves for name in move.names} >= set(experts)
    after = collect(model, batches, KINDS)
    for kind, value in ((SecondMoments, "sums"), (InputNorms, "norms")):
        moved = report.plan.moved(found[kind])
        for name in experts:  # norms that moved together with outputs have them all
            pair = torch.broadcast_tensors(getattr(moved[name], value), getattr(after[kind][name], value))
            torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4)
    # what the report counts on is what masks retain
    rows = sl.magnitude_report(model, "2:4").set_index("layer")
    axes = report.frame[report.frame["consumers"].map(lambda names: set(names) <= set(experts) and len(names) > 0)]
    for axis in axes[axes["retained"].notna()].itertuples():
        assert rows.loc[list(axis.consumers), "retained"].sum() == pytest.approx(axis.retained, rel=1e-5)


def test_memory_is_that_of_every_expert():
    model = model_of("Mixtral")
    needed = 4 * 4 * 8 * 8  # gate_up_proj in float32, and as much again for what one call adds
    layers = ["*gate_up_proj"]
    collect(model, [batch()], [SecondMoments], layers=layers, max_bytes=2 * needed)
    with pytest.raises(ValueError, match=r"SecondMoments of 1 weights take 2\.0 KiB"):
        collect(model, [batch()], [SecondMoments], layers=layers, max_bytes=2 * needed - 1)


def test_layers_of_ordinary_modules_are_no_experts():
    model = nn.ModuleDict({"up_proj": nn.Linear(4, 4), "conv": nn.Conv1d(4, 4, 3)})
    assert not packed_of(model)
