import math

import numpy as np
import pytest
import torch
from torch import nn

import sparselab as sl


class Net(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 8))


def test_magnitude_report_agrees_with_numpy():
    model = Net()
    report = sl.magnitude_report(model, "2:4")
    assert list(report["layer"]) == ["0.weight", "2.weight", "4.weight"]
    assert list(report["eligible"]) == [False, True, True]
    assert report["reason"][0] == "3 input channels are not a multiple of 4"
    assert math.isnan(report["lost_percent"][0])
    for row in report[report["eligible"]].itertuples():
        matrix = model.get_parameter(row.layer).detach().double().abs().numpy().reshape(row.rows, row.channels)
        kept = np.sort(matrix.reshape(-1, 4))[:, 2:].sum()
        ideal = np.sort(matrix)[:, row.channels // 2 :].sum()
        np.testing.assert_allclose(
            [row.total, row.retained, row.ideal, row.lost_percent],
            [matrix.sum(), kept, ideal, 100 * (1 - kept / matrix.sum())], rtol=1e-6,
        )  # fmt: skip
    whole = report.attrs["whole_model"]
    assert whole["eligible_layers"] == 2
    assert whole["weights"] == 3 * 8 * 9 + 8 * 16 + 16 * 8
    assert whole["retained"] == pytest.approx(report["retained"].sum())
    assert whole["lost_percent"] == pytest.approx(100 * (1 - whole["retained"] / whole["total"]))


def test_magnitude_report_changes_nothing():
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sl.magnitude_report(model, "1:4")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_magnitude_report_of_odd_models():
    assert len(sl.magnitude_report(nn.ReLU(), "2:4")) == 0
    zeros = nn.Linear(8, 4)
    nn.init.zeros_(zeros.weight)
    assert sl.magnitude_report(zeros, "2:4")["lost_percent"].tolist() == [0.0]
    nn.init.constant_(zeros.weight, float("nan"))
    with pytest.raises(ValueError, match="layer 'weight': NaN or infinite scores"):
        sl.magnitude_report(zeros, "2:4")
    with pytest.raises(ValueError, match="is not a pattern"):
        sl.magnitude_report(nn.ReLU(), "two of four")


def test_every_parametrised_layer_has_its_row():
    model = nn.Sequential(*(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)) for _ in range(8)))
    for frame in (sl.magnitude_report(model, "2:4"), sl.check(model)):
        assert list(frame["layer"]) == [f"{i}.weight" for i in range(8)]


@pytest.mark.parametrize("report", [lambda model: sl.magnitude_report(model, "2:4"), sl.check])
def test_layers_without_values_are_named(report):
    with pytest.raises(ValueError, match=r"layer '0\.weight' is not initialised yet: run one forward pass"):
        report(nn.Sequential(nn.LazyLinear(8)))
    with pytest.raises(ValueError, match="layer 'weight' is on the meta device"):
        report(nn.Linear(8, 8, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype(dtype):
    model = nn.Linear(32, 32, bias=False)
    model.weight.data = model.weight.data.to(dtype)
    row = sl.magnitude_report(model, "2:4").iloc[0]
    sizes = model.weight.detach().double().abs()
    kept = np.sort(sizes.numpy().reshape(-1, 4))[:, 2:].sum()
    np.testing.assert_allclose([row["total"], row["retained"]], [float(sizes.sum()), kept], rtol=1e-12)
    assert not sl.check(model)["sparse"].item()
    model.weight.data = (sizes * sl.create_mask(model.weight, "2:4")).to(dtype)
    checked = sl.check(model).iloc[0]
    assert checked["sparse"]
    assert checked["kernel"]
    assert checked["density"] == pytest.approx(float((model.weight.detach().float() != 0).float().mean()))


class TestCheck:
    def test_a_pruned_model_passes_and_one_weight_too_many_fails(self):
        model = nn.Sequential(nn.Linear(32, 32), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 16, 3))
        assert not sl.check(model)["sparse"].any()
        sl.Sparsifier(model, "2:4").compute()
        frame = sl.check(model)
        assert frame["sparse"].all()
        assert (frame["violations"] == 0).all()
        assert (frame["density"] == 0.5).all()
        assert list(frame["kernel"]) == [True, True, False]
        assert "wider than 1x1" in frame["reason"][2]
        with torch.no_grad():
            model[0].weight[3, 4:8] = torch.tensor([1.0, 2, 0, 3])
        frame = sl.check(model)
        assert frame["violations"][0] == 1
        assert frame["reason"][0] == "1 of 256 groups keep more than 2"
        assert not frame["kernel"][0]

    def test_kernel_shapes(self):
        model = nn.Linear(24, 32)
        sl.Sparsifier(model, "2:4").compute()
        assert sl.check(model)["reason"].item() == "32 x 24: the kernel wants multiples of 16"
        quarter = nn.Linear(32, 32)
        sl.Sparsifier(quarter, "1:4").compute()
        assert sl.check(quarter, "1:4")["reason"].item() == "kernels exist for 2:4, not for 1:4"
        assert sl.check(quarter, "2:4")["sparse"].item()

    def test_a_layer_too_narrow_to_break_a_pattern_says_so(self):
        row = sl.check(nn.Conv2d(8, 8, 3, groups=8)).iloc[0]
        assert row["sparse"]
        assert row["reason"] == "too few input channels (1) for a group to hold more than 2: nothing to prune here"

    def test_vnm_blocks_hold_four_columns(self):
        model = nn.Conv2d(16, 12, 3, bias=False)
        model.weight.data.mul_(sl.create_mask(model.weight, "4:2:8"))
        assert sl.check(model, "4:2:8")["violations"].item() == 0
        model.weight.data.copy_(torch.rand_like(model.weight) * sl.create_mask(torch.rand_like(model.weight), "2:8"))
        assert sl.check(model, "2:8")["sparse"].item()
        assert not sl.check(model, "4:2:8")["sparse"].item()

    def test_2d_patterns_are_checked_both_ways(self):
        model = nn.Linear(16, 16)
        sl.Sparsifier(model, "2:4").compute()
        assert sl.check(model, "2:4")["sparse"].item()
        row = sl.check(model, "m4n2_2d_best").iloc[0]
        assert not row["sparse"]
        assert row["groups"] == 2 * 16 * 4
        assert row["violations"] <= 16 * 4
        assert sl.check({"weight": torch.empty(0, 8)}, "m4n2_2d_best")["groups"].item() == 0

    def test_files_and_state_dicts_agree_with_the_model(self, tmp_path):
        model = nn.Sequential(nn.Linear(16, 16), nn.ConvTranspose2d(16, 8, 1))
        sl.Sparsifier(model, "2:4").compute()
        expected = sl.check(model)
        state = model.state_dict()
        torch.save(state, tmp_path / "plain.pt")
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
        sources = [state, tmp_path / "plain.pt", str(tmp_path / "nested.pt")]
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "m.safetensors")
        for source in [*sources, tmp_path / "m.safetensors"]:
            frame = sl.check(source)
            assert frame.equals(expected), source
        assert list(expected["channel_dim"]) == [1, 0]

    def test_files_it_cannot_read(self, tmp_path):
        with pytest.raises(ValueError, match=r"no such file: .*missing.pt"):
            sl.check(tmp_path / "missing.pt")
        torch.save([1, 2], tmp_path / "list.pt")
        with pytest.raises(ValueError, match="holds a list, not a state dict"):
            sl.check(tmp_path / "list.pt")
        torch.save(nn.Linear(4, 4), tmp_path / "module.pt")
        for name in ("garbage.pt", "garbage.safetensors"):
            (tmp_path / name).write_bytes(b"hello world " * 9)
        (tmp_path / "empty.pt").touch()
        for name in ("module.pt", "garbage.pt", "garbage.safetensors", "empty.pt"):
            with pytest.raises(
                ValueError, match=rf"cannot read .*{name} \(\w+\): it has to hold tensors, as torch.save"
            ):
                sl.check(tmp_path / name)
        with pytest.raises(ValueError, match="takes a module, a state dict or a file, got Tensor"):
            sl.check(torch.ones(4, 4))
        with pytest.raises(ValueError, match="unknown mask calculator '2d_bets'"):
            sl.check({}, "m4n2_2d_bets")
        with pytest.raises(ValueError, match="check needs an N:M pattern"):
            sl.check({}, "row,0.5")
