"""Second moments: against what unit weights let through, against outputs, and against a permuted model's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparselab as sl
from sparselab.core.moves import Move
from sparselab.statistics import InputNorms, SecondMoments, collect, reconstruction_error, windows
from sparselab.statistics.rows import from_rows, to_rows

LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 2, 5)),
    "linear, one sample": (lambda: nn.Linear(5, 4), (5,)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (2, 3, 7)),
    "conv1d, one sample": (lambda: nn.Conv1d(3, 4, 3), (3, 7)),
    "conv1d, circular": (lambda: nn.Conv1d(3, 4, 3, padding=2, padding_mode="circular"), (2, 3, 7)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2)), (2, 3, 5, 4)),
    "conv2d, strided": (lambda: nn.Conv2d(3, 4, 3, stride=(2, 3), padding=(1, 2)), (2, 3, 7, 6)),
    "conv2d, dilated": (lambda: nn.Conv2d(3, 4, 2, dilation=(2, 3), padding=2), (2, 3, 5, 6)),
    "conv2d, same": (lambda: nn.Conv2d(3, 4, (2, 4), dilation=(1, 2), padding="same"), (2, 3, 6, 7)),
    "conv2d, reflect": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (2, 3, 5, 4)),
    "conv2d, replicate": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"), (2, 3, 5, 4)),
    "conv2d, grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2, stride=2, padding=1), (2, 6, 5, 5)),
    "conv2d, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=2, padding=1), (2, 2, 4, 3, 3)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(3, 4, 3), (2, 3, 5)),
    "transposed 1d, cut": (lambda: nn.ConvTranspose1d(3, 4, 2, padding=2), (2, 3, 7)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (2, 3, 4, 3)),
    "transposed 2d, dilated": (lambda: nn.ConvTranspose2d(3, 4, (3, 2), stride=(1, 3), dilation=2), (2, 3, 4, 3)),
    "transposed 2d, grouped": (lambda: nn.ConvTranspose2d(6, 4, (3, 2), stride=2, groups=2), (2, 6, 3, 3)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, padding=1), (2, 2, 3, 3, 2)),
}


def build(name: str) -> tuple[nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().double(), [torch.randn(shape, dtype=torch.float64) for _ in range(2)]


def channel_dim(layer: nn.Module) -> int:
    return 0 if getattr(layer, "transposed", False) else 1


def outputs(layer: nn.Module, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What the layer gives with another weight and no bias, outputs first: ``(outputs, positions)``."""
    with torch.no_grad():
        bias = torch.zeros_like(layer.bias)
        y = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
    dim = -1 if isinstance(layer, nn.Linear) else y.ndim - (weight.ndim - 2) - 1
    y = y.movedim(dim, 0)
    return y.reshape(len(y), -1)


def seen_by(layer: nn.Module, group: int, x: torch.Tensor) -> torch.Tensor:
    """``(positions, columns)``: what the group's first output is a product with, one unit weight after the other."""
    groups, dim = getattr(layer, "groups", 1), channel_dim(layer)
    rows = to_rows(torch.zeros_like(layer.weight), dim, groups)
    columns = []
    for column in range(rows.shape[2]):
        unit = torch.zeros_like(rows)
        unit[group, 0, column] = 1
        weight = from_rows(unit, layer.weight.shape, dim)
        columns.append(outputs(layer, weight, x)[group * rows.shape[1]])
    return torch.stack(columns, 1)


def moments_of(layer: nn.Module, batches: list[torch.Tensor], dtype=torch.float64) -> SecondMoments:
    return collect(layer, batches, [SecondMoments], dtype=dtype)[SecondMoments]["weight"]


@pytest.mark.parametrize("name", LAYERS)
def test_they_are_those_of_what_every_output_is_a_product_with(name: str):
    layer, batches = build(name)
    moments = moments_of(layer, batches)
    assert moments.groups == getattr(layer, "groups", 1)
    for group in range(moments.groups):
        seen = np.concatenate([seen_by(layer, group, x).numpy() for x in batches])
        np.testing.assert_allclose(moments.sums[group].numpy(), seen.T @ seen, rtol=1e-10, atol=1e-10)
        assert moments.counts[group] == len(seen)


@pytest.mark.parametrize("name", LAYERS)
def test_the_error_is_that_of_the_outputs(name: str):
    layer, batches = build(name)
    pruned = layer.weight.detach() * (torch.rand_like(layer.weight) > 0.5)
    found = reconstruction_error(layer.weight, pruned, moments_of(layer, batches))
    whole = [outputs(layer, layer.weight.detach(), x) for x in batches]
    lost = [y - outputs(layer, pruned, x) for x, y in zip(batches, whole)]
    expected = 100 * sum(float(y.square().sum()) for y in lost) / sum(float(y.square().sum()) for y in whole)
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0 < found < 400


def test_of_a_convolution_by_loops():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 6, 5))
    layer = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(1, 0), groups=2).double()
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    expected = np.zeros((2, 12, 12))
    for sample in padded:
        for top in range(0, 8 - 2, 2):
            for left in range(5 - 2):
                for group in range(2):
                    vector = [
                        sample[2 * group + channel, top + i, left + 2 * j]
                        for channel in range(2)
                        for i in range(3)
                        for j in range(2)
                    ]
                    expected[group] += np.outer(vector, vector)
    found = moments_of(layer, [torch.from_numpy(x)])
    np.testing.assert_allclose(found.sums.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(
        found.rows(layer.weight)[1].detach().numpy(), layer.weight[3:].flatten(1).detach().numpy()
    )


@pytest.mark.parametrize("width", [383, 384, 385, 900])  # below a strip, one, a little more, several
def test_of_wide_inputs(width: int):
    torch.manual_seed(width)
    layer = nn.Linear(width, 3)
    batches = [torch.randn(20, width), torch.randn(7, width)]
    moments = moments_of(layer, batches)
    seen = torch.cat(batches).double().numpy()
    np.testing.assert_allclose(moments.sums[0].numpy(), seen.T @ seen, rtol=1e-10, atol=1e-10)
    weight, other = layer.weight.detach(), torch.randn(3, width)
    dense, lost = seen @ weight.double().numpy().T, seen @ (weight.double() - other.double()).numpy().T
    expected = 100 * (lost**2).sum() / (dense**2).sum()
    assert reconstruction_error(weight, other, moments) == pytest.approx(expected, rel=1e-9)
    assert reconstruction_error(weight, other, moments_of(layer, batches, torch.float32)) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("name", ["linear", "conv2d, grouped", "transposed 2d, grouped"])
def test_least_squares_on_them_finds_the_weight_again(name: str):
    """The normal equations of the outputs, solved with H: what a weight update does."""
    layer, batches = build(name)
    batches = [torch.randn(40, *x.shape[1:], dtype=torch.float64) for x in batches]
    moments = moments_of(layer, batches)
    given = layer.weight.detach()
    rows = []
    for group in range(moments.groups):
        each = len(to_rows(given, channel_dim(layer), moments.groups)[group])
        cross = sum(
            outputs(layer, given, x)[group * each : (group + 1) * each] @ seen_by(layer, group, x) for x in batches
        )
        rows.append(torch.linalg.solve(moments.sums[group], cross.T).T)
    torch.testing.assert_close(moments.from_rows(torch.stack(rows)), given, rtol=1e-8, atol=1e-10)


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from([0, 1]),
)
@settings(max_examples=60, deadline=None)
def test_rows_go_back_to_the_weight(groups: int, outputs: int, channels: int, kernel: list[int], dim: int):
    shape = (groups * outputs, channels, *kernel) if dim else (groups * channels, outputs, *kernel)
    weight = torch.randn(shape)
    rows = to_rows(weight, dim, groups)
    assert rows.shape == (groups, outputs, channels * int(np.prod(kernel)))
    assert torch.equal(from_rows(rows, shape, dim), weight)
    for group in range(groups):
        part = weight.reshape(groups, -1, *shape[1:])[group]
        assert torch.equal(rows[group], (part if dim else part.transpose(0, 1)).flatten(1))


def test_groups_must_divide_the_weight():
    with pytest.raises(ValueError, match=r"3 groups do not divide a weight of shape \(8, 4\)"):
        to_rows(torch.ones(8, 4), groups=3)


# ------------------------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["self", "cross", "separate"])
def test_of_attention(kind: str, batch_first: bool):
    torch.manual_seed(0)
    sizes = {"kdim": 6, "vdim": 5} if kind == "separate" else {}
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes).double()
    query = torch.randn(3, 4, 8).double()
    key, value = (
        (query, query)
        if kind == "self"
        else (torch.randn(3, 7, sizes.get(dim, 8)).double() for dim in ("kdim", "vdim"))
    )
    inputs = tuple(x if batch_first else x.transpose(0, 1) for x in (query, key, value))
    if kind == "self":
        inputs = inputs[:1] * 3
    found = collect(attention, [inputs, inputs], [SecondMoments], dtype=torch.float64)[SecondMoments]
    names = [f"{letter}_proj_weight" for letter in "qkv"] if kind == "separate" else ["in_proj_weight"]
    assert set(found) == {*names, "out_proj.weight"}
    sums = (
        torch.cat([found[name].sums for name in names])
        if kind != "separate"
        else [found[name].sums[0] for name in names]
    )
    for own, x in zip(sums, (query, key, value)):
        flat = x.flatten(0, 1).numpy()
        np.testing.assert_allclose(own.numpy(), 2 * flat.T @ flat, rtol=1e-12)
    if kind != "separate":
        moments = found["in_proj_weight"]
        assert moments.counts == ((24, 24, 24) if kind == "self" else (24, 42, 42))
        assert (moments.sums.stride(0) == 0) == (kind == "self")  # one matrix in memory
    parts = [
        attention.in_proj_weight.chunk(3)[i] if kind != "separate" else attention.get_parameter(names[i])
        for i in range(3)
    ]
    with torch.no_grad():
        q, k, v = (
            (x @ w.T + b).unflatten(-1, (2, 4)).transpose(1, 2)
            for x, w, b in zip((query, key, value), parts, attention.in_proj_bias.chunk(3))
        )
        attended = ((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2).flatten(0, 1).numpy()
    np.testing.assert_allclose(found["out_proj.weight"].sums[0].numpy(), 2 * attended.T @ attended, rtol=1e-9)


def test_the_error_of_a_packed_projection():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    query, key, value = (torch.randn(3, size, 8).double() for size in (4, 5, 5))
    moments = collect(attention, [(query, key, value)], [SecondMoments], dtype=torch.float64)[SecondMoments][
        "in_proj_weight"
    ]
    weight = attention.in_proj_weight.detach()
    pruned = weight * (torch.rand_like(weight) > 0.5)

    def energy(packed: torch.Tensor) -> float:
        return sum(float((x @ w.T).square().sum()) for x, w in zip((query, key, value), packed.chunk(3)))

    found = reconstruction_error(weight, pruned, moments)
    assert found == pytest.approx(100 * energy(weight - pruned) / energy(weight), rel=1e-10)


def test_of_the_conv1d_of_gpt2():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    layer, x = conv1d(3, 5).double(), torch.randn(2, 4, 5).double()
    moments = moments_of(layer, [x])
    assert (moments.shape, moments.channel_dim, moments.groups) == ((5, 3), 0, 1)
    flat = x.flatten(0, 1)
    torch.testing.assert_close(moments.sums[0], flat.T @ flat)
    pruned = layer.weight.detach().clone()
    pruned[::2] = 0
    with torch.no_grad():
        expected = 100 * float((flat @ (layer.weight - pruned)).square().sum() / (flat @ layer.weight).square().sum())
    assert reconstruction_error(layer.weight, pruned, moments) == pytest.approx(expected, rel=1e-10)


# ----------------------------------------------------------------------------------------------------- beside the norms


def test_their_diagonal_has_the_norms_where_every_input_is_seen_once():
    torch.manual_seed(0)
    once = nn.Sequential(
        nn.Conv2d(4, 8, 1, groups=2),
        nn.ConvTranspose2d(8, 4, 1, groups=2),
        nn.Flatten(2),
        nn.Linear(9, 8),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    ).double()
    found = collect(once, [torch.randn(2, 4, 3, 3).double()], [InputNorms, SecondMoments], dtype=torch.float64)
    assert set(found[InputNorms]) == set(found[SecondMoments])
    for name, moments in found[SecondMoments].items():
        norms, own = found[InputNorms][name], moments.norms()
        weight = once.get_parameter(name)
        assert (own.channel_dim, own.groups) == (norms.channel_dim, norms.groups)
        torch.testing.assert_close(own.norms.expand_as(weight), norms.norms.expand_as(weight), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["conv2d, grouped", "transposed 2d, grouped", "conv2d, strided"])
def test_norms_of_a_convolution_are_those_of_what_windows_see(name: str):
    layer, batches = build(name)
    own = moments_of(layer, batches).norms()
    groups = own.groups
    rows = to_rows(own.norms.expand_as(layer.weight), channel_dim(layer), groups)
    for group in range(groups):
        seen = np.concatenate([seen_by(layer, group, x).numpy() for x in batches])
        for row in rows[group]:
            np.testing.assert_allclose(row.numpy(), np.linalg.norm(seen, axis=0), rtol=1e-9)
    assert sl.saliency.Ria.of(own)(layer.weight).shape == layer.weight.shape


# --------------------------------------------------------------------------------------------------------------- moving


class Branches(nn.Module):
    """Grouped convolutions, plain and transposed, attention with heads, and a tied layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=2, padding=1)
        self.next, self.up = nn.Conv2d(16, 16, 2), nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.inp, self.out = nn.Linear(8, 16), nn.Linear(16, 4)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.again, self.twin = nn.Linear(16, 16), nn.Linear(16, 16)
        self.twin.weight = self.again.weight

    def forward(self, x):
        x = self.next(self.grouped(self.stem(x)).relu()).relu()
        x = self.up(x).relu().flatten(2).transpose(1, 2)
        x = self.encoder(self.inp(x))
        return self.out(self.twin(self.again(x).relu()).relu())


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=8, use_cache=False, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


CASES = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)),
        lambda: [torch.randn(9, 8).double() for _ in range(2)],
        {"2.weight", "4.weight"},
    ),
    "branches": (
        Branches,
        lambda: [torch.randn(2, 3, 4, 4).double() for _ in range(2)],
        {"grouped.weight", "next.weight", "up.weight", "encoder.linear2.weight", "encoder.self_attn.out_proj.weight"},
    ),
    "gpt2": (
        gpt2,
        lambda: [{"input_ids": torch.randint(40, (2, 8))} for _ in range(2)],
        {"transformer.h.0.mlp.c_proj.weight"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_moves_them_as_it_moves_weights(case: str):
    torch.manual_seed(0)
    make, data, moving = CASES[case]
    model, batches = make().double().eval(), data()
    kinds = [InputNorms, SecondMoments]
    before = collect(model, batches, kinds, dtype=torch.float64)
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters(remove_duplicate=False)}
    plan = sl.permute(model, batches[0], strategy="channel_swap").plan
    anew = collect(model, batches, kinds, dtype=torch.float64)
    moved = plan.moved(before[SecondMoments])
    changed = set()
    for name, found in moved.items():
        assert (found.counts, found.shape, found.channel_dim) == (
            anew[SecondMoments][name].counts,
            anew[SecondMoments][name].shape,
            anew[SecondMoments][name].channel_dim,
        )
        torch.testing.assert_close(found.sums, anew[SecondMoments][name].sums, rtol=1e-8, atol=1e-10)
        if not torch.equal(found.sums, before[SecondMoments][name].sums):
            changed.add(name)
        weight = model.get_parameter(name)
        pruned = weight.detach() * sl.create_mask(weight, "unstructured,0.5")
        same = old[name] * sl.create_mask(old[name], "unstructured,0.5")
        assert reconstruction_error(weight, pruned, found) == pytest.approx(
            reconstruction_error(old[name], same, before[SecondMoments][name]), rel=1e-8
        )
    assert moving <= changed
    for name, norms in plan.moved(before[InputNorms]).items():
        torch.testing.assert_close(norms.norms, anew[InputNorms][name].norms, rtol=1e-8, atol=1e-10)
    back = plan.inverse().moved(moved)
    assert all(torch.equal(back[name].sums, before[SecondMoments][name].sums) for name in back)


def symmetric(rng: np.random.Generator, groups: int, size: int) -> np.ndarray:
    half = rng.integers(-9, 9, (groups, size, size)).astype(np.float64)
    return half + half.transpose(0, 2, 1)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_move_within_each_group_of_a_grouped_convolution(groups, outputs, channels, kernel, seed):
    """Such a move spans two dimensions: every row of the weight has the order of its group."""
    rng = np.random.default_rng(seed)
    shape = (groups * outputs, channels, kernel)
    inner = [rng.permutation(channels) for _ in range(groups)]
    order = np.concatenate([row * channels + inner[row // outputs] for row in range(groups * outputs)])
    sums = symmetric(rng, groups, channels * kernel)
    moved = SecondMoments(torch.from_numpy(sums), tuple(range(groups)), shape).moved(Move(("w",), shape, 0, 1, order))
    for group in range(groups):
        index = (inner[group][:, None] * kernel + np.arange(kernel)).ravel()
        np.testing.assert_array_equal(moved.sums[group].numpy(), sums[group][np.ix_(index, index)])
    assert moved.counts == tuple(range(groups))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0, 1]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_move_of_whole_groups(groups, outputs, channels, dim, seed):
    """Groups change places in the first dimension, and for transposed weights channels within them do too."""
    rng = np.random.default_rng(seed)
    each = outputs if dim else channels
    shape = (groups * each, channels if dim else outputs, 2)
    places, inner = rng.permutation(groups), [rng.permutation(each) for _ in range(groups)]
    order = np.concatenate([places[group] * each + inner[group] for group in range(groups)])
    sums = symmetric(rng, groups, channels * 2)
    moved = SecondMoments(torch.from_numpy(sums), tuple(range(groups)), shape, dim).moved(
        Move(("w",), shape, 0, 0, order)
    )
    for group in range(groups):
        index = np.arange(channels * 2) if dim else (inner[group][:, None] * 2 + np.arange(2)).ravel()
        np.testing.assert_array_equal(moved.sums[group].numpy(), sums[places[group]][np.ix_(index, index)])
    assert moved.counts == tuple(places)


def test_moves_that_do_not_fit_are_refused():
    moments = SecondMoments(torch.zeros(2, 3, 3), (1, 1), (4, 3))
    with pytest.raises(ValueError, match=r"a weight of shape \(4, 3\) cannot follow a move of \(3, 4\)"):
        moments.moved(Move(("w",), (3, 4), 0, 0, np.arange(3)))
    transposed = SecondMoments(torch.zeros(2, 2, 2), (1, 1), (4, 3), 0)
    with pytest.raises(ValueError, match="a move of 'w' that mixes the inputs of its groups"):
        transposed.moved(Move(("w",), (4, 3), 0, 0, np.array([0, 2, 1, 3])))


def test_matrices_that_groups_share_stay_one_when_they_move():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    moments = collect(attention, [(x, x, x)], [SecondMoments])[SecondMoments]["in_proj_weight"]
    order = np.array([2, 0, 3, 1])
    moved = moments.moved(Move(("in_proj_weight",), (12, 4), 1, 1, order))
    assert moved.sums.shape == (3, 4, 4)
    assert moved.sums.stride(0) == 0
    assert torch.equal(moved.sums[2], moments.sums[2][order][:, order])


# ----------------------------------------------------------------------------------------------------- dtypes and memory


def test_float32_by_default_where_the_model_computes():
    layer, x = nn.Linear(6, 3), torch.randn(50, 6)
    moments = moments_of(layer, [x], torch.float32)
    assert moments.sums.dtype == torch.float32
    exact = moments_of(layer, [x])
    assert exact.sums.dtype == torch.float64
    torch.testing.assert_close(moments.sums.double(), exact.sums, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype: torch.dtype):
    layer, x = nn.Linear(6, 3).to(dtype), (300 * torch.randn(64, 6)).to(dtype)
    flat = x.double()
    torch.testing.assert_close(
        moments_of(layer, [x], torch.float32).sums[0].double(), flat.T @ flat, rtol=1e-5, atol=50
    )


def test_autocast_does_not_reach_the_sums():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(3, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = collect(model, [x], [InputNorms, SecondMoments])
    moments = found[SecondMoments]["self_attn.in_proj_weight"]
    flat = x.flatten(0, 1).double()
    assert moments.sums.dtype == torch.float32
    torch.testing.assert_close(moments.sums[0].double(), flat.T @ flat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_inputs_are_unfolded_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch):
    layer, batches = build(name)
    whole = moments_of(layer, batches)
    largest = []

    def noted(self, inputs, counted, original=windows.Windows.pieces):
        for piece, those in original(self, inputs, counted):
            largest.append(piece.numel())
            yield piece, those

    monkeypatch.setattr(windows.Windows, "pieces", noted)
    for module in (windows, sl.statistics.second_moments):
        monkeypatch.setattr(module, "PIECE", 100)
    cut = moments_of(layer, batches)
    torch.testing.assert_close(cut.sums, whole.sums, rtol=1e-10, atol=1e-10)
    assert cut.counts == whole.counts
    assert max(largest, default=0) <= max(100, whole.sums.shape[1] * whole.groups)


def test_errors_of_what_is_no_layers_weight():
    moments = SecondMoments(torch.eye(2)[None], (1,), (3, 2))
    with pytest.raises(ValueError, match=r"a weight of shape \(3, 2\), the weight has \(2, 3\)"):
        reconstruction_error(torch.ones(2, 3), torch.ones(2, 3), moments)
    nothing = SecondMoments(torch.zeros(1, 2, 2), (0,), (3, 2))
    assert reconstruction_error(torch.ones(3, 2), torch.zeros(3, 2), nothing) == 0
    assert reconstruction_error(torch.zeros(3, 2), torch.ones(3, 2), moments) == np.inf
    assert reconstruction_error(torch.ones(3, 2), torch.ones(3, 2), moments) == 0


def test_a_shared_weight_has_those_of_all_its_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    x = torch.randn(5, 4).double()
    found = collect(model, [x], [SecondMoments], dtype=torch.float64)[SecondMoments]
    with torch.no_grad():
        y = model[:2](x)
    assert set(found) == {"0.weight"}
    torch.testing.assert_close(found["0.weight"].sums[0], x.T @ x + y.T @ y)
    assert found["0.weight"].counts == (10,)


def test_they_are_copied_and_pickled(tmp_path):
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    found = collect(attention, [(x, x, x)], [InputNorms, SecondMoments])
    torch.save(found, tmp_path / "statistics.pt")
    for again in (copy.deepcopy(found), torch.load(tmp_path / "statistics.pt", weights_only=False)):
        for name, moments in found[SecondMoments].items():
            assert torch.equal(again[SecondMoments][name].sums, moments.sums)


def test_a_window_is_that_of_f_unfold():
    x = torch.randn(2, 3, 6, 5).double()
    layer = nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=(1, 2)).double()
    columns = F.unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(moments_of(layer, [x]).sums[0], columns.T @ columns)
