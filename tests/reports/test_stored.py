"""What ``check`` finds in whatever holds weights: states, checkpoints around them, files, other tools' forms."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import sparselab as sl
from sparselab.command_line.main import main
from sparselab.core import shards
from sparselab.core.stored import channel_dims


def halved(model: nn.Module) -> nn.Module:
    """``model`` with two of four kept of every matrix along dimension 1."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.mul_(sl.create_mask(weight, "2:4"))
    return model


def groups_over(weight: torch.Tensor) -> int:
    """How many groups of four along the last dimension keep more than two, counted by numpy."""
    return int((np.count_nonzero(weight.detach().numpy().reshape(-1, 4), axis=1) > 2).sum())


@pytest.fixture
def state():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).state_dict()


# --------------------------------------------------------------------------------- nothing to judge


def adam():
    layer = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "holds no weights that can be judged .*: it is empty"),
        ({"epoch": 3}, "it has 'epoch': a int"),
        ({"epoch": torch.tensor(3), "mean": torch.zeros(3)}, r"it has 'epoch': int64 \(\), 'mean': float32 \(3,\)"),
        (adam(), "it is the state of an optimizer; check the model's, model.state_dict()"),
        ({"optimizer": adam(), "epoch": 3}, "'optimizer': a dict"),
        (adam()["state"], "it has 0: a dict"),
        ({f"m{i}": nn.Linear(4, 4) for i in range(7)}, r"'m0': a Linear \(check it by itself\), .* and 2 more"),
        ({"0.weight.exp_avg": torch.ones(4, 4)}, "no weights that can be judged"),
        ({"position_ids": torch.arange(4)[None], "causal.mask": torch.ones(4, 4).bool()}, "no weights"),
    ],
)
def test_what_holds_no_weights_is_an_error(held, message, tmp_path, capsys):
    with pytest.raises(ValueError, match=message):
        sl.check(held)
    if not any(isinstance(value, nn.Module) for value in held.values()):
        torch.save(held, tmp_path / "held.pt")
        assert main(["check", str(tmp_path / "held.pt")]) == 2
        assert "holds no weights that can be judged" in capsys.readouterr().err


def test_a_module_without_weights_is_an_error():
    with pytest.raises(ValueError, match="there are no weights in this ReLU that check could judge"):
        sl.check(nn.ReLU())
    with pytest.raises(ValueError, match="entry='ema' is for states and files, and this is a Linear"):
        sl.check(nn.Linear(8, 8), entry="ema")


def test_a_dimension_too_short_to_break_the_pattern_proves_nothing():
    """Along the two outputs of a classifier every weight is 2:4; that is not its input channels."""
    (row,) = sl.check({"fc.weight": torch.ones(2, 64)}).to_dict("records")
    assert (row["is_sparse"], row["channel_dim"], row["violations"]) == (False, 1, 32)


# ------------------------------------------------------------------------------------ where it lies


def test_the_state_may_lie_in_another_mapping(state, tmp_path):
    expected = sl.check(state)
    assert expected["is_sparse"].equals(expected["sparse"])
    for nested in ({"net": state}, {"state_dict": state, "epoch": 3}, {"a": {"b": state}, "optimizer": adam()}):
        torch.save(nested, tmp_path / "nested.pt")
        for held in (nested, tmp_path / "nested.pt"):
            assert sl.check(held).equals(expected)


def test_several_states_have_to_be_told_apart(state, tmp_path, capsys):
    ema = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    held = {"model": state, "deep": {"ema": ema}, "confusion": torch.ones(10, 10), "optimizer": adam()}
    with pytest.raises(ValueError, match=r"several places, 'model', 'deep.ema': choose one, as by entry='model'"):
        sl.check(held)
    assert sl.check(held, entry="deep.ema")["is_sparse"].all()
    with pytest.raises(ValueError, match=r"no weights in 'ema'; there are some in: at the top, 'model', 'deep.ema'"):
        sl.check(held, entry="ema")
    torch.save(held, tmp_path / "held.pt")
    assert main(["check", str(tmp_path / "held.pt")]) == 2
    assert "(in a shell: --entry model)" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "held.pt"), "--entry", "deep.ema"]) == 0
    assert main(["check", str(tmp_path / "held.pt"), "--entry", "model"]) == 1


# --------------------------------------------------------------------------------------- other forms


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


class Doubled(nn.Module):
    def forward(self, weight):
        return weight + weight.flip(0)


def of_prune(layer):
    prune.l1_unstructured(layer, "weight", 0.9)


def of_mask(layer):
    parametrize.register_parametrization(layer, "weight", Masked(sl.create_mask(layer.weight, "2:4")))


FORMS = {
    of_prune: "weight_orig x weight_mask",
    of_mask: "original x mask, of its parametrisation",
    parametrizations.weight_norm: "original0 x original1, weight norm",
    parametrizations.spectral_norm: "original, which spectral norm divides by one number",
    nn.utils.weight_norm: "weight_g x weight_v, weight norm",
    nn.utils.spectral_norm: "weight_orig, which spectral norm divides by one number",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("dense", [True, False])
def test_weights_in_several_entries_are_judged_as_the_weight_they_stand_for(form, dense):
    torch.manual_seed(1)
    layer = nn.Linear(16, 16)
    layer = layer if dense else halved(layer)
    form(layer)
    layer.eval()
    layer(torch.ones(1, 16))
    model = nn.Sequential(layer)
    (row,) = sl.check(model.state_dict()).to_dict("records")
    assert row["layer"] == "0.weight"
    assert row["violations"] == groups_over(layer.weight)
    assert row["density"] == pytest.approx(float((layer.weight != 0).float().mean()))
    assert row["reason"].split("; ")[0] == FORMS[form]


def test_a_parametrisation_that_the_state_does_not_tell_says_so():
    layer = halved(nn.Linear(16, 16))
    parametrize.register_parametrization(layer, "weight", Doubled())
    (row,) = sl.check(layer.state_dict()).to_dict("records")
    assert row["reason"] == "computed by a parametrisation, and the state does not say how: check the module itself"
    assert np.isnan([row[name] for name in ("density", "groups", "violations", "channel_dim")]).all()
    assert not row["is_sparse"]
    assert not sl.check(layer)["is_sparse"].item()


def test_entries_that_do_not_fit_are_an_error():
    broken = {"weight_orig": torch.ones(4, 8), "weight_mask": torch.ones(4, 4)}
    with pytest.raises(
        ValueError, match=r"cannot put 'weight' together, .*: weight_orig \(4, 8\), weight_mask \(4, 4\)"
    ):
        sl.check(broken)
    with pytest.raises(ValueError, match=r"the mask of 'weight' is \(4, 4\), its weight \(4, 8\)"):
        sl.check({"weight": torch.ones(4, 8), "__weight_mma_mask": torch.ones(4, 4).bool()})


def test_our_masks_are_no_weights_and_those_not_applied_yet_are_told():
    model = nn.Sequential(nn.Linear(16, 16))
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True, schedule="decay,0,5")
    sparsifier.compute()
    (row,) = sl.check(model.state_dict()).to_dict("records")
    assert row["layer"] == "0.weight"
    assert row["reason"] == (
        "its mask takes 128 weights more: sl.finalized(state) applies it; 64 of 64 groups keep more than 2"
    )
    sparsifier.weights.apply()
    assert sl.check(model.state_dict()).equals(sl.check(model))
    assert sl.check(model)["is_sparse"].all()


def test_nothing_of_two_dimensions_is_dropped():
    lstm = nn.LSTM(16, 16, bidirectional=True, proj_size=8).state_dict()
    extra = {
        "experts.gate_up_proj": torch.randn(2, 8, 16) * torch.tensor([1.0, 1, 0, 0]).repeat(4),
        "experts.down_proj": torch.randn(2, 8, 16) * torch.tensor([1.0, 1, 0, 0]).repeat(2)[:, None],
        "attention.in_proj_weight": torch.ones(24, 8),
        "pos_embed": torch.randn(1, 5, 8),
        "packed.qweight": torch.ones(8, 8, dtype=torch.int32),
        "half.weight": torch.ones(4, 4, dtype=torch.int8),
        "absent.weight": torch.empty(4, 4, device="meta"),
        "empty.weight": torch.empty(0, 4),
        "fp4.weight": torch.ones(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "coo.weight": torch.eye(4).to_sparse(),
    }
    rows = sl.check({**lstm, **extra, "norm.weight": torch.ones(8)}).set_index("layer")
    assert list(rows.index) == [name for name, value in lstm.items() if value.ndim == 2] + list(extra)
    assert list(rows.loc[["experts.gate_up_proj", "experts.down_proj"], "channel_dim"]) == [2, 1]
    assert rows.loc[["experts.gate_up_proj", "experts.down_proj", "coo.weight"], "is_sparse"].all()
    assert "packed experts have to be taken apart" in rows.loc["experts.down_proj", "reason"]
    assert rows.loc["pos_embed", "reason"] == "not a layer's weight by its name; 10 of 10 groups keep more than 2"
    assert rows.loc["packed.qweight", "reason"] == "int32: packed by another tool, so its zeros cannot be read"
    assert rows.loc["absent.weight", "reason"] == "on the meta device, without values: load its weights first"
    assert rows.loc["empty.weight", "reason"] == "empty: no entry to judge"
    assert rows.loc["fp4.weight", "reason"].startswith("float4_e2m1fn_x2: packed by another tool")
    assert rows.loc["coo.weight", "reason"].startswith("held as sparse_coo; ")
    assert not rows.drop(["experts.gate_up_proj", "experts.down_proj", "coo.weight"])["is_sparse"].any()


def test_a_recurrent_weight_is_judged_along_its_inputs_only():
    assert channel_dims("rnn.weight_hh_l1_reverse", 2) == (1,)
    transposed = (torch.rand(4, 8) + 1) * torch.tensor([1.0, 1, 0, 0])[:, None]
    assert sl.check({"fc.weight": transposed})["channel_dim"].item() == 0
    assert not sl.check({"rnn.weight_ih_l0": transposed})["is_sparse"].item()


@pytest.mark.filterwarnings("ignore")
def test_scripted_exported_and_quantised_models(tmp_path, capsys):
    torch.manual_seed(0)
    model = nn.Sequential(halved(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 8))
    expected = list(sl.check(model)["violations"])
    scripted = torch.jit.script(model)
    exported = torch.export.export(model, (torch.randn(2, 16),))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    torch.export.save(exported, tmp_path / "m.pt2")
    torch.save(quantised.state_dict(), tmp_path / "q.pt")
    for held in (
        scripted,
        exported,
        exported.module(),
        tmp_path / "m.pt2",
        quantised,
        quantised.state_dict(),
        tmp_path / "q.pt",
    ):
        rows = sl.check(held)
        assert list(rows["layer"]) == ["0.weight", "2.weight"]
        assert rows["violations"].tolist() == pytest.approx(expected, abs=2)  # int8 rounds some to zero
        assert list(rows["is_sparse"]) == [True, False]
    assert rows["reason"][0].startswith("qint8 of torch.ao.quantization")
    recurrent = torch.ao.quantization.quantize_dynamic(nn.Sequential(halved(nn.LSTM(16, 8))), {nn.LSTM})
    rows = sl.check(recurrent)
    assert [name.rpartition(".")[2] for name in rows["layer"]] == ["weight_ih", "weight_hh"]
    assert rows["is_sparse"].all()
    scripted.save(tmp_path / "s.pt")
    assert main(["check", str(tmp_path / "s.pt")]) == 2
    assert "is a TorchScript archive, which holds code: if you trust it" in capsys.readouterr().err


# --------------------------------------------------------------------------------- several files


def write_shards(folder, state, kind):
    """``state`` in two files and an index, as ``transformers`` writes them."""
    names = sorted(state)
    files = {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        file = folder / (f"model-0000{number}-of-00002.{kind}")
        held = {name: state[name] for name in part}
        if kind == "safetensors":
            pytest.importorskip("safetensors.torch").save_file(held, file)
        else:
            torch.save(held, file)
        files |= dict.fromkeys(part, file.name)
    index = folder / ("model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_sharded_checkpoint_is_read_a_shard_at_a_time(kind, state, tmp_path, monkeypatch, capsys):
    index = write_shards(tmp_path, state, kind)
    opened: Counter[str] = Counter()
    read = shards.read_file
    monkeypatch.setattr(shards, "read_file", lambda file: opened.update([file.name]) or read(file))
    expected = sl.check({name: state[name] for name in sorted(state)})
    assert sl.check(tmp_path).equals(expected)
    assert set(opened.values()) == {1}  # each shard once: never back to one that was let go
    assert sl.check(index).equals(expected)
    (tmp_path / f"model-00002-of-00002.{kind}").unlink()
    opened.clear()
    assert main(["check", str(tmp_path)]) == 2
    assert "1 of the 2 files that" in (error := capsys.readouterr().err)
    assert f"are not there: model-00002-of-00002.{kind}. Fetch them" in error
    assert not opened
    index.unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in the folder|holds 1 shards of a checkpoint without"):
        sl.check(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none(text, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ValueError, match="is not the index of a sharded checkpoint: it has to be JSON with a"):
        sl.check(tmp_path)


def test_shards_that_do_not_fit_their_index(state, tmp_path):
    save = pytest.importorskip("safetensors.torch").save_file
    index = write_shards(tmp_path, state, "safetensors")
    save({"2.weight": state["2.weight"]}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"'2\.weight' is in both model-00001-of-00002.safetensors and model-00002"):
        sl.check(index)
    save({"9.weight": state["2.weight"]}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"names 3 tensors that its files do not hold: 0\.bias, 0\.weight, 2\.bias"):
        sl.check(index)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"cannot read .*model-00001-of-00002.safetensors"):
        sl.check(index)


def test_the_checkpoint_in_a_folder(state, tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint in the folder .*: looked for"):
        sl.check(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    torch.save({}, tmp_path / "training_args.bin")
    assert len(sl.check(tmp_path)) == 2
    save = pytest.importorskip("safetensors.torch").save_file
    save(state, tmp_path / "one.safetensors")
    save(state, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"holds 2 files that could be its checkpoint: one.safetensors, two.saf"):
        sl.check(tmp_path)
    save({"0.weight": state["0.weight"]}, tmp_path / "model.safetensors")
    assert len(sl.check(tmp_path)) == 1
    distributed = tmp_path / "distributed"
    distributed.mkdir()
    (distributed / ".metadata").touch()
    with pytest.raises(ValueError, match=r"whose index is a pickle: turn it into a file by .*dcp_to_torch_save"):
        sl.check(distributed)
    (distributed / "model-00002-of-00003.safetensors").touch()
    with pytest.raises(ValueError, match="holds 1 shards of a checkpoint without their index"):
        sl.check(distributed)
