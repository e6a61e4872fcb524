"""Norms of activations: against the inputs that a layer was seen to get, and against a permuted model's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.saliency import Ria, Wanda, collect_activations, collect_wanda
from sparselab.statistics import InputNorms, collect


class Net(nn.Module):
    """A layer of every kind that has a rule of its own; ``seen`` has what each was given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, groups=2)
        self.linear = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        self.seen = {"conv.weight": x}
        x = self.conv(x)
        self.seen["up.weight"] = x
        x = self.up(x).flatten(2).transpose(1, 2)
        self.seen["linear.weight"] = x
        x = self.linear(x)
        self.seen["attention.in_proj_weight"] = x
        return self.attention(x, x, x)[0]


def norms_of(batches: list[torch.Tensor], dim: int) -> np.ndarray:
    together = [np.moveaxis(batch.numpy(), dim, 0).reshape(batch.shape[dim], -1) for batch in batches]
    return np.linalg.norm(np.concatenate(together, axis=1).astype(np.float64), axis=1)


def test_collected_norms_agree_with_the_inputs():
    torch.manual_seed(0)
    model = Net().eval()
    batches = [torch.randn(3, 4, 5, 5) for _ in range(2)]
    activations = collect_activations(model, batches)
    seen = []
    for batch in batches:
        with torch.no_grad():
            model(batch)
        seen.append(model.seen)
    channels = {"conv.weight": 1, "up.weight": 1, "linear.weight": -1, "attention.in_proj_weight": -1}
    assert set(activations.inputs) == {*channels, "attention.out_proj.weight"}
    rows_and_columns = {
        "conv.weight": 8 * 9 + 4,
        "up.weight": 2 * 2 * 4 + 8,
        "linear.weight": 8 + 4,
        "attention.in_proj_weight": 3 * (8 + 8),
    }
    wanda, ria = activations.wanda(), activations.saliency("ria")
    for name, dim in channels.items():
        norms = norms_of([batch[name] for batch in seen], dim)
        weight = model.get_parameter(name).detach()
        if name == "conv.weight":  # two groups of four outputs, each with its own half of the input channels
            per_weight = np.repeat(norms.reshape(2, 2), 4, axis=0)[:, :, None, None]
        elif name == "up.weight":
            per_weight = norms[:, None, None, None]
        else:
            per_weight = norms[None]
        np.testing.assert_allclose(wanda[name](weight).numpy(), weight.abs().numpy() * per_weight, rtol=1e-5)
        relative = ria[name](weight).numpy() / per_weight**0.5
        # The shares in a row, and those in a column, add up to 1: this counts the rows and columns of all matrices.
        np.testing.assert_allclose(relative.sum(), rows_and_columns[name], rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cross", [False, True])
def test_what_attention_gives_its_output_projection_is_seen_too(cross: bool, bias: bool):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True).eval()
    query, key = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    inputs = (query, key, key) if cross else (query, query, query)
    found = collect_activations(attention, [inputs]).inputs["out_proj.weight"]
    with torch.no_grad():
        q, k, v = (
            (x @ w.T + (0 if b is None else b)).unflatten(-1, (2, 4)).transpose(1, 2)
            for x, w, b in zip(
                inputs,
                attention.in_proj_weight.chunk(3),
                attention.in_proj_bias.chunk(3) if bias else (None,) * 3,
            )
        )
        attended = ((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
    np.testing.assert_allclose(found.norms[0].numpy(), norms_of([attended], -1), rtol=1e-5)


def test_a_whole_encoder_layer_is_seen():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    x = torch.randn(2, 7, 16)
    activations = collect_activations(model, [x])
    assert not sl.magnitude_report(model, "2:4", saliency=activations.ria())["retained"].isna().any()
    with torch.no_grad():
        after_attention = model.norm1(x + model.self_attn(x, x, x)[0])
    np.testing.assert_allclose(
        activations.inputs["linear1.weight"].norms[0], norms_of([after_attention], -1), rtol=1e-5
    )


class Branches(nn.Module):
    """Grouped convolutions whose groups have orders of their own, attention, and a tied layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, groups=2)
        self.inp, self.out = nn.Linear(8, 16), nn.Linear(16, 4)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.again = nn.Linear(16, 16)
        self.twin = nn.Linear(16, 16)
        self.twin.weight = self.again.weight

    def forward(self, x):
        x = self.up(self.grouped(self.stem(x)).relu()).relu().flatten(2).transpose(1, 2)
        x = self.encoder(self.inp(x))
        return self.out(self.twin(self.again(x).relu()).relu())


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=8, use_cache=False, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


CASES = {
    "branches": (Branches, lambda: [torch.randn(2, 3, 4, 4) for _ in range(3)]),
    "gpt2": (gpt2, lambda: [{"input_ids": torch.randint(40, (2, 8))} for _ in range(3)]),
}


@pytest.mark.parametrize("criterion", ["wanda", "ria"])
@pytest.mark.parametrize("case", CASES)
def test_a_plan_moves_scores_as_it_moves_weights(case: str, criterion: str):
    """The saliency that a plan moved is the one that the permuted model's own activations give."""
    torch.manual_seed(0)
    build, data = CASES[case]
    model, batches = build().double().eval(), data()
    batches = [x if isinstance(x, dict) else x.double() for x in batches]
    given = collect_activations(model, batches).saliency(criterion)
    before = sl.magnitude_report(model, "2:4", saliency=given).set_index("layer")
    report = sl.permute(model, batches[0], strategy="channel_swap", saliency=given)
    moved = report.plan.moved(given)
    anew = collect_activations(model, batches).saliency(criterion)
    assert set(moved) == set(anew)
    changed = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in moved:
            torch.testing.assert_close(moved[name](parameter), anew[name](parameter), rtol=1e-8, atol=1e-12)
            still = given[name](parameter)
            changed += not torch.allclose(still, moved[name](parameter), rtol=1e-6)
    assert changed > 3
    after = sl.magnitude_report(model, "2:4", saliency=moved).set_index("layer")
    np.testing.assert_allclose(after["total"], before["total"], rtol=1e-9)
    gained = float((after["retained"] - before["retained"]).sum())
    assert gained > 0
    permuted = report.frame[report.frame["status"] == "permuted"]
    assert report.retained_gain > 0
    if case == "gpt2":  # no weight there reads two axes, so what the searches say adds up to what the masks say
        np.testing.assert_allclose(gained, float((permuted["retained"] - permuted["baseline"]).sum()), rtol=1e-6)


def test_a_sparsifier_prunes_by_the_norms_that_moved():
    torch.manual_seed(0)
    model, x = Branches().eval(), torch.randn(2, 3, 4, 4)
    ria = collect_activations(model, [x]).ria()
    by_hand = copy.deepcopy(model)
    sparsifier = sl.Sparsifier(model, "2:4", saliency=ria, permutation="channel_swap", example_inputs=x)
    sparsifier.compute()
    report = sl.permute(by_hand, x, saliency=ria, strategy="channel_swap")
    moved = report.plan.moved(ria)
    for name, mask in sparsifier.masks.items():
        weight = by_hand.get_parameter(name)
        dim = moved[name].channel_dim
        assert torch.equal(mask, sl.create_mask(weight, "2:4", channel_dim=dim, saliency=moved[name]))


def test_a_plan_refuses_scores_of_another_shape_and_leaves_functions_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    plan = sl.permute(model, torch.randn(2, 4)).plan
    with pytest.raises(ValueError, match=r"scores of .2\.weight. have shape"):
        plan.moved({"2.weight": torch.ones(3, 3)})
    assert plan.moved({"2.weight": "magnitude", "elsewhere": torch.abs}) == {
        "2.weight": "magnitude",
        "elsewhere": torch.abs,
    }
    norms = plan.moved({"2.weight": Wanda(torch.arange(8.0))})["2.weight"].norms
    assert norms.shape == (1, 8)  # no larger than it has to be


def test_collecting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect_wanda(model, [(torch.randn(3, 4),)])
    assert model.training
    assert not model[1].training
    assert not model[0]._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="no batch to collect inputs from"):
        collect_wanda(model, [])


def test_hooks_go_when_the_model_fails():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        collect_activations(model, [torch.randn(3, 5)])
    assert not model[0]._forward_pre_hooks


def test_one_pass_gives_both_and_names_them():
    model = nn.Sequential(nn.Linear(4, 4))
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    activations = collect_activations(model, [torch.randn(3, 4)])
    assert isinstance(activations.saliency("wanda")["0.weight"], Wanda)
    assert isinstance(activations.saliency("ria")["0.weight"], Ria)
    assert activations.ria(power=1.0)["0.weight"].power == 1.0
    assert len(passes) == 1
    with pytest.raises(
        ValueError, match=r"unknown saliency from activations .riaa.; valid: ria, wanda\. Did you mean .ria."
    ):
        activations.saliency("riaa")


def test_a_forward_of_ones_own_and_a_wrapped_model():
    model = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(6, 4)
    parallel = nn.DataParallel(model)
    found = collect_activations(parallel, [{"x": x, "label": 3}], forward=lambda net, batch: net(batch["x"]))
    np.testing.assert_allclose(found.inputs["0.weight"].norms[0].numpy(), norms_of([x], 1), rtol=1e-6)


def test_a_mapping_must_have_every_eligible_layer():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    only_first = collect_wanda(model[:1], [torch.randn(2, 8)])
    assert set(only_first) == {"0.weight"}
    with pytest.raises(ValueError, match=r"no saliency for weight '1.weight'; the mapping has 1 others"):
        sl.magnitude_report(model, "2:4", saliency=only_first)
    both = collect_wanda(model, [torch.randn(2, 8)])
    assert not sl.magnitude_report(model, "2:4", saliency=both)["retained"].isna().any()


def test_layers_that_are_given_the_same_tensor_share_its_sums():
    calls = []

    class Counted(InputNorms):
        @classmethod
        def of_call(cls, given, dtype):
            calls.append(given.layer.name)
            return super().of_call(given, dtype)

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 4)

        def forward(self, x):
            q, k = self.q(x), self.k(x)
            x *= 2  # in place: another input
            return self.o(q + torch.cat([k, self.v(x)], -1) + self.q(x))

    model, batches = Attending(), [torch.randn(5, 4), torch.randn(3, 4)]
    found = collect(model, [batch.clone() for batch in batches], [Counted])[Counted]
    assert calls == ["q.weight", "v.weight", "o.weight"] * 2
    x = torch.cat(batches).double()
    for name, expected in (("q", (x.square() + (2 * x).square())), ("k", x.square()), ("v", (2 * x).square())):
        torch.testing.assert_close(found[f"{name}.weight"].norms[0], expected.sum(0).sqrt())
