"""One pass, whatever is asked for: which layers, which positions, which ranks, how much memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import sparselab as sl
from sparselab.core.moves import Move
from sparselab.statistics import Given, InputNorms, SecondMoments, WeightUse, collect
from sparselab.statistics.memory import as_text, free_bytes
from sparselab.statistics.positions import counted_at

KINDS = [InputNorms, SecondMoments]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).double()


def assert_same(found, expected):
    """The same statistics but for rounding."""
    assert set(found) == set(expected)
    for kind in found:
        assert set(found[kind]) == set(expected[kind])
        for name, one in found[kind].items():
            other = expected[kind][name]
            if kind is InputNorms:
                torch.testing.assert_close(one.norms, other.norms, rtol=1e-9, atol=1e-12)
            else:
                torch.testing.assert_close(one.sums, other.sums, rtol=1e-9, atol=1e-12)
                assert one.counts == other.counts


# ------------------------------------------------------------------------------------------------------------ one pass


def test_every_kind_comes_from_the_same_pass():
    model, x = mlp(), torch.randn(6, 4).double()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    found = sl.statistics.collect(model, [x, x], KINDS, dtype=torch.float64)
    assert len(passes) == 2
    assert list(found) == KINDS
    assert set(found[SecondMoments]) == set(found[InputNorms]) == {"0.weight", "2.weight"}
    alone = sl.saliency.collect_activations(model, [x, x]).inputs
    assert all(torch.equal(found[InputNorms][name].norms, alone[name].norms) for name in alone)
    assert not model[0]._forward_pre_hooks


def test_saliencies_are_made_of_what_was_collected():
    model, x = mlp(), torch.randn(6, 4).double()
    found = collect(model, [x], KINDS)
    by_name = sl.saliency.from_statistics("ria,power=0.3", found)
    expected = sl.saliency.collect_activations(model, [x]).ria(0.3)
    for name, ria in by_name.items():
        weight = model.get_parameter(name)
        assert torch.equal(ria(weight), expected[name](weight))


def test_what_is_not_there_says_why():
    model = mlp()
    found = collect(model, [torch.randn(3, 4).double()], [InputNorms], layers="0")
    with pytest.raises(
        KeyError, match=r"no InputNorms of weight '2\.weight': the data did not reach its layer, or layers"
    ):
        found[InputNorms]["2.weight"]
    with pytest.raises(
        KeyError, match=r"no SecondMoments here, only InputNorms: collect them too, kinds=\[SecondMoments"
    ):
        found[SecondMoments]
    assert found.get(SecondMoments) is None
    assert "2.weight" not in found[InputNorms]
    with pytest.raises(ValueError, match="needs statistics of the kind InputNorms, here are SecondMoments"):
        sl.saliency.from_statistics("ria", collect(model, [torch.randn(3, 4).double()], [SecondMoments]))


def test_a_layer_that_the_data_never_reach_has_no_entry():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    found = collect(Half(), [torch.randn(2, 4)], KINDS)
    assert set(found[InputNorms]) == set(found[SecondMoments]) == {"used.weight"}


@dataclass(frozen=True)
class Calls:
    """A kind of this file's own: how often a weight was used."""

    calls: int
    name: str

    @classmethod
    def bytes_of(cls, layer: WeightUse, dtype: torch.dtype) -> int:
        return 8

    @classmethod
    def of_call(cls, given: Given, dtype: torch.dtype) -> tuple[Tensor]:
        return (torch.ones(1),)

    @classmethod
    def of_sums(cls, sums: tuple[Tensor, ...], layer: WeightUse) -> Calls:
        return cls(int(sums[0]), layer.name)

    def moved(self, move: Move) -> Calls:
        return self


def test_a_kind_of_ones_own():
    found = collect(mlp(), [torch.randn(3, 4).double()] * 3, [Calls, InputNorms])
    assert found[Calls]["2.weight"] == Calls(3, "2.weight")


# -------------------------------------------------------------------------------------------------------------- layers


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)
        self.twin = nn.Linear(8, 3)
        self.twin.weight = self.head.weight

    def forward(self, x, pad=None):
        for block in self.blocks:
            x = block(x, src_key_padding_mask=pad)
        return self.head(x) + self.twin(x)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            "blocks.1.*",
            {
                f"blocks.1.{name}"
                for name in (
                    "linear1.weight",
                    "linear2.weight",
                    "self_attn.in_proj_weight",
                    "self_attn.out_proj.weight",
                )
            },
        ),
        (["blocks.?.linear1"], {"blocks.0.linear1.weight", "blocks.1.linear1.weight"}),
        ("blocks.0.self_attn.out_proj", {"blocks.0.self_attn.out_proj.weight"}),
        ("twin", {"head.weight"}),
    ],
)
def test_layers_are_chosen_by_name(layers, expected):
    model, x = Encoder(), torch.randn(2, 3, 8)
    found = collect(model, [x], KINDS, layers=layers)
    assert set(found[SecondMoments]) == expected
    whole = collect(model, [x], KINDS)
    for name in expected:
        assert torch.equal(found[SecondMoments][name].sums, whole[SecondMoments][name].sums)


def test_a_name_that_matches_nothing_is_refused_before_any_batch():
    batches = iter([torch.randn(2, 4)])
    with pytest.raises(
        ValueError, match=r"layers names 'decoder.\*', which matches no weight .* there are 0.weight, 2.weight"
    ):
        collect(mlp(), batches, layers=["0", "decoder.*"])
    assert next(batches, None) is not None


# -------------------------------------------------------------------------------------------------------------- memory


def test_what_would_take_too_much_memory_is_refused_before_any_batch():
    batches = iter([torch.randn(2, 4)])
    model = mlp()
    need = 4 * 4**2 + 4 * 8**2  # float32
    with pytest.raises(
        ValueError,
        match=rf"SecondMoments of 2 weights take {need + 256} B on cpu, more than 500 B \(max_bytes\).*layers=\['blocks",
    ):
        collect(model, batches, [SecondMoments], max_bytes=500)
    assert next(batches, None) is not None
    collect(model.float(), [torch.randn(2, 4)], [SecondMoments], max_bytes=need + 256)


def test_half_of_what_is_free_is_the_default(monkeypatch):
    monkeypatch.setattr(sl.statistics.collecting, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=r"more than 500 B \(half of what is free\)"):
        collect(mlp(), [torch.randn(2, 4)], [SecondMoments])
    monkeypatch.setattr(sl.statistics.collecting, "free_bytes", lambda device: None)
    collect(mlp(), [torch.randn(2, 4).double()], [SecondMoments])


def test_sizes_are_readable():
    assert [as_text(size) for size in (0, 1023, 2048, 5.5 * 2**20, 3 * 2**30, 2**50)] == [
        "0 B",
        "1023 B",
        "2.0 KiB",
        "5.5 MiB",
        "3.0 GiB",
        "1024.0 TiB",
    ]
    assert free_bytes(torch.device("meta")) is None
    assert free_bytes(torch.device("cpu")) is None or free_bytes(torch.device("cpu")) > 0


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"dtype=torch.float16: .* torch.float32 or torch.float64"):
        collect(mlp(), [], [SecondMoments], dtype=torch.float16)


@pytest.mark.parametrize("kinds", [SecondMoments, [], ["SecondMoments"], [SecondMoments, nn.Linear], 3])
def test_kinds_that_are_none_are_refused(kinds):
    with pytest.raises(ValueError, match=r"kinds=.*give a list of kinds of statistics"):
        collect(mlp(), [], kinds)


# ----------------------------------------------------------------------------------------------------------- positions


def texts(sizes: tuple[int, ...], vocabulary: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, vocabulary, (size,), generator=generator) for size in sizes]


def padded(some: list[Tensor], length: int, value: int = 7) -> dict[str, Tensor]:
    ids = torch.full((len(some), length), value)
    mask = torch.zeros(len(some), length, dtype=torch.int64)
    for row, text in enumerate(some):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return transformers.BertModel(config)


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16, use_cache=False, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_padding_counts_for_nothing(make):
    """Padded texts say what the same texts say one by one; a pooler counts once for each of them."""
    torch.manual_seed(0)
    model, some = make().double(), texts((3, 7, 5, 4))
    apart = [padded([text], len(text)) for text in some]
    alone = collect(model, apart, KINDS, dtype=torch.float64)
    together = collect(model, [padded(some, 9)], KINDS, mask="attention_mask", dtype=torch.float64)
    assert_same(together, alone)
    assert set(together[SecondMoments][next(iter(together[SecondMoments]))].counts) == {19}
    if make is bert:
        assert together[SecondMoments]["pooler.dense.weight"].counts == (4,)
    assert_same(collect(model, [padded(some, 9)], KINDS, dtype=torch.float64), alone)  # found without being told
    without = collect(model, [padded(some, 9)], KINDS, mask=None, dtype=torch.float64)
    name = next(iter(without[SecondMoments]))
    assert not torch.allclose(without[SecondMoments][name].sums, alone[SecondMoments][name].sums)


@pytest.mark.parametrize("nested", [False, True])
def test_padding_in_attention_of_pytorch(nested: bool):
    """An encoder of ``nn``, which on its own would hand nested tensors on."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).double()
    some = [torch.randn(size, 8).double() for size in (3, 5)]
    batch = {"src": nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=3.0)}
    batch["src_key_padding_mask"] = torch.arange(5) >= torch.tensor([[3], [5]])
    together = collect(model, [batch], KINDS, mask=lambda b: ~b["src_key_padding_mask"], dtype=torch.float64)
    assert_same(together, collect(model, [text[None] for text in some], KINDS, dtype=torch.float64))
    assert model.use_nested_tensor == nested


@pytest.mark.parametrize("turns", [False, True])
def test_attention_that_has_tokens_first(turns: bool):
    """``batch_first=False``, in a model that has tokens first everywhere, or turns its inputs for attention only."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2)

        def forward(self, x, pad):
            x = self.inp(x)
            x = x.transpose(0, 1) if turns else x
            return self.attention(x, x, x, key_padding_mask=pad)[0]

    torch.manual_seed(0)
    model, some = Model().double(), [torch.randn(size, 8).double() for size in (3, 5, 2)]

    def batch(texts: list[Tensor]) -> dict[str, Tensor]:
        x = nn.utils.rnn.pad_sequence(texts, batch_first=turns, padding_value=3.0)
        pad = torch.arange(max(map(len, texts))) >= torch.tensor([[len(text)] for text in texts])
        return {"x": x, "pad": pad}

    together = collect(
        model, [batch(some)], KINDS, mask=lambda b: ~b["pad"] if turns else ~b["pad"].T, dtype=torch.float64
    )
    assert_same(together, collect(model, [batch([text]) for text in some], KINDS, dtype=torch.float64))
    square = batch([*some, some[0], some[1]])
    with pytest.raises(ValueError, match=r"fits the input of 'attention\.in_proj_weight' both as"):
        collect(model, [square], KINDS, mask=lambda b: ~b["pad"] if turns else ~b["pad"].T)


def test_padding_before_a_convolution():
    """Over tokens, with zeros around: what the shorter text alone would see."""
    torch.manual_seed(0)
    model = nn.Conv1d(4, 6, 3, padding=1, groups=2).double()
    some = [torch.randn(4, size).double() for size in (3, 6)]
    x = torch.full((2, 4, 8), 5.0).double()
    mask = torch.zeros(2, 8, dtype=torch.bool)
    for row, text in enumerate(some):
        x[row, :, : text.shape[1]], mask[row, : text.shape[1]] = text, True
    together = collect(model, [x], KINDS, mask=lambda _: mask, dtype=torch.float64)
    assert_same(together, collect(model, [text[None] for text in some], KINDS, dtype=torch.float64))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=3, groups=2),
        nn.Conv2d(4, 6, 2, padding=1, dilation=2, padding_mode="circular"),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    ],
)
def test_samples_that_do_not_count(layer: nn.Module):
    layer, x = layer.double(), torch.randn(4, 4, 5, 6).double()
    counted = torch.tensor([True, False, True, False])
    found = collect(layer, [x], KINDS, mask=lambda _: counted, dtype=torch.float64)
    assert_same(found, collect(layer, [x[counted]], KINDS, dtype=torch.float64))
    everything = collect(layer, [x], KINDS, mask=lambda _: torch.ones(4, dtype=torch.bool), dtype=torch.float64)
    assert_same(everything, collect(layer, [x], KINDS, dtype=torch.float64))
    none = collect(layer, [x], KINDS, mask=lambda _: torch.zeros(4, 5, 6, dtype=torch.bool), dtype=torch.float64)
    assert none[SecondMoments]["weight"].counts == (0,) * layer.groups
    assert not none[SecondMoments]["weight"].sums.any()


def test_what_stands_at_positions_that_do_not_count_does_not_matter():
    layer, x = nn.Linear(4, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x[~mask] = float("nan")
    found = collect(layer, [x], KINDS, mask=lambda _: mask)
    assert found[SecondMoments]["weight"].counts == (3,)
    torch.testing.assert_close(found[SecondMoments]["weight"].sums[0], x[mask].T @ x[mask])
    assert torch.isfinite(found[InputNorms]["weight"].norms).all()


def test_how_a_mask_fits_inputs():
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    assert torch.equal(counted_at(mask, (3, 2), "w"), mask)
    assert torch.equal(counted_at(mask, (3, 2, 5), "w"), mask[..., None].expand(3, 2, 5))
    assert counted_at(mask, (3,), "w").tolist() == [True, False, True]
    assert torch.equal(counted_at(mask, (6,), "w"), mask.flatten())
    assert torch.equal(counted_at(mask, (2, 3), "w", swapped=True), mask.T)
    for positions in ((2, 3), (4,), (3, 3), (2, 2, 3)):
        with pytest.raises(ValueError, match=r"the mask of shape \(3, 2\) does not fit what 'w' is given.*layers=\["):
            counted_at(mask, positions, "w")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("attention_mask", "mask='attention_mask' is a key of batches that are dicts; this batch has: 'input'"),
        (lambda batch: batch["input"], r"a tensor of bools, or of 0 and 1.* got torch.float64 of shape \(3, 4\)"),
        (lambda batch: [True], "got list"),
        (
            lambda batch: torch.ones(5, dtype=torch.bool),
            r"the mask of shape \(5,\) does not fit what '0.weight' is given",
        ),
    ],
)
def test_masks_that_are_none(mask, message):
    with pytest.raises(ValueError, match=message):
        collect(mlp(), [{"input": torch.randn(3, 4).double()}], mask=mask)


def test_a_key_needs_batches_that_are_dicts():
    with pytest.raises(ValueError, match=r"this batch has: a Tensor"):
        collect(mlp(), [torch.randn(3, 4).double()], mask="attention_mask")


# --------------------------------------------------------------------------------------------------------------- ranks

CODE = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
import sparselab as sl
from sparselab.statistics import InputNorms, SecondMoments
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)

class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.even, self.odd, self.both = nn.Linear(4, 4), nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x, number):
        y = (self.odd if number % 2 else self.even)(x)
        return self.both(y, y if number else x, y)[0]

torch.manual_seed(0)
model = Routed()
batches = [(torch.randn(3, 5, 4), number) for number in range(4)]
mine = {0: [batches[0], batches[2]], 1: [batches[1], batches[3], batches[3]]}
found = sl.statistics.collect(model, mine[rank], [InputNorms, SecondMoments])
result = {name: (moments.sums.clone(), moments.counts, found[InputNorms][name].norms)
          for name, moments in found[SecondMoments].items()}
torch.save(result, f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
alone = sl.statistics.collect(model, mine[0] + mine[1], [InputNorms, SecondMoments])
torch.save({name: (moments.sums.clone(), moments.counts, alone[InputNorms][name].norms)
            for name, moments in alone[SecondMoments].items()}, f"{folder}/alone{rank}.pt")
# Past the interpreter's end: there, once in a hundred runs, a thread of gloo aborts the process.
os._exit(0)
"""


def test_all_ranks_have_the_sums_of_all(tmp_path):
    """Each saw other batches, and one of them never one of the layers: both have the same bits."""
    workers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(CODE), str(rank), str(tmp_path)]) for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    first, second, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("0", "1", "alone0"))
    assert list(first) == list(second)
    assert set(first) == set(alone) == {"even.weight", "odd.weight", "both.in_proj_weight", "both.out_proj.weight"}
    for name, (sums, counts, norms) in first.items():
        assert torch.equal(sums, second[name][0])
        assert torch.equal(norms, second[name][2])
        assert counts == second[name][1] == alone[name][1]
        torch.testing.assert_close(sums, alone[name][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norms, alone[name][2], rtol=1e-12, atol=0)
