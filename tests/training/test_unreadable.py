"""Weights without plain numbers: quantised, float8, offloaded, not loaded. A row with the reason, or a refusal."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.saliency import scores
from sparselab.statistics import InputNorms
from sparselab.widgets.layers import choosable_layers

QUANTISED = r"held as a (?:Int8Tensor|Float8Tensor|IntxUnpackedToInt8Tensor) \(quantised or sharded\): "


def net(dtype=torch.float32):
    torch.manual_seed(0)
    layers = (nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    return nn.Sequential(*layers).to(dtype).eval()


def quantised(config, dtype=torch.float32):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = net(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_(model, getattr(quantization, config)(), filter_fn=lambda module, name: name == "0")
    return model


def offloaded(on_disk, folder):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = net()
    if on_disk:
        return accelerate.disk_offload(model, str(folder), torch.device("cpu"))
    return accelerate.cpu_offload(model, torch.device("cpu"))


def float8():
    model = net()
    model[0].weight = nn.Parameter(model[0].weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return model


def assert_first_has_only_a_reason(model, reason):
    """In every table the first row says why, and the others are as ever."""
    plain = net(model[4].weight.dtype)
    report, whole = sl.magnitude_report(model, "2:4"), sl.magnitude_report(plain, "2:4")
    assert report.loc[0, ["total", "retained", "ideal", "lost_percent"]].isna().all()
    assert report.loc[0, ["shape", "rows", "channels", "weights"]].tolist() == [(64, 32), 64, 32, 2048]
    assert report["total"].tolist()[1:] == whole["total"].tolist()[1:]
    assert report["eligible"].tolist() == [False, True, True]
    assert report.attrs["whole_model"]["eligible_weights"] == 64 * 64 + 64 * 32
    frames = [report, sl.check(model), sl.check(model.state_dict()), sl.Sparsifier(model, "2:4").frame]
    for frame in frames:
        assert frame["reason"].str.contains(reason).tolist() == [True, False, False]
    for frame in frames[1:]:
        assert frame["density"].isna().tolist() == [True, False, False]
    for audit in frames[1:3]:
        assert audit.loc[0, ["groups", "violations"]].isna().all()
        assert audit.loc[0, ["sparse", "kernel"]].tolist() == [False, False]


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ("Int8WeightOnlyConfig", torch.float32),
        ("Int8DynamicActivationInt8WeightConfig", torch.float32),
        ("Float8WeightOnlyConfig", torch.bfloat16),
        ("IntxWeightOnlyConfig", torch.float32),
    ],
)
def test_a_quantised_layer_is_left_and_all_around_it_is_done(config, dtype):
    model = quantised(config, dtype)
    assert_first_has_only_a_reason(model, QUANTISED)
    weight, x = model[0].weight, torch.randn(4, 32, dtype=dtype)
    for call in (
        lambda: sl.create_mask(weight, "2:4"),
        lambda: scores(weight),
        lambda: sl.search_permutation(weight),
        lambda: sl.permute(net(dtype), x, strategy="channel_swap").plan.apply(model),
    ):
        with pytest.raises(ValueError, match=QUANTISED):
            call()
    assert set(sl.statistics.collect(model, [x])[InputNorms]) == {"0.weight", "2.weight", "4.weight"}
    assert list(choosable_layers(model)) == ["2.weight", "4.weight"]

    model = quantised(config, dtype)  # the frame above gave that one masks
    before = model(x)
    report = sl.permute(model, x, strategy="channel_swap")
    rows = report.frame.set_index("axis")["status"].to_dict()
    assert rows == {"2.weight:0": "permuted", "2.weight:1": "pinned"}
    assert "0.weight is held as a" in report.frame.loc[report.frame["status"] == "pinned", "reason"].item()
    torch.testing.assert_close(model(x), before, atol=3e-2 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)

    sparsifier = sl.Sparsifier(model, "2:4")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    model(x).float().square().mean().backward()
    optimizer.step()
    assert list(sparsifier.masks) == ["2.weight", "4.weight"]
    assert sl.check(model)["sparse"].tolist() == [False, True, True]


def test_float8_is_read_but_not_trained():
    model, message = float8(), "of dtype float8_e4m3fn, in which PyTorch does not multiply: prune the weight before it"
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    frame = sparsifier.frame
    assert frame["reason"].str.contains(message).tolist() == [True, False, False]
    assert frame["density"].isna().tolist() == [True, False, False]
    assert sl.check(model)["density"].tolist()[1:] == [0.5, 0.5]
    plain = sl.Sparsifier(net(), "2:4")
    plain.compute()
    with pytest.raises(ValueError, match=rf"'0\.weight' of the copy cannot be pruned: it is {message}"):
        plain.apply_to(float8())
    with pytest.raises(ValueError, match=rf"the model does not run: '0\.weight' is {message}.*same dtype"):
        sl.statistics.collect(float8(), [torch.randn(4, 32)])


@pytest.mark.parametrize("on_disk", [False, True])
def test_offloaded_weights(on_disk, tmp_path):
    model, message = offloaded(on_disk, tmp_path), "offloaded by accelerate, without values between its calls: prune"
    for frame in (sl.magnitude_report(model, "2:4"), sl.check(model), sl.Sparsifier(model, "2:4").frame):
        assert frame["reason"].str.contains(message).all()
        assert frame["total" if "total" in frame else "density"].isna().all()
    with pytest.raises(ValueError, match=rf"'0\.weight' cannot be moved: it is {message}"):
        sl.permute(model, torch.randn(4, 32))
    with pytest.raises(ValueError, match=rf"convolution.* with more than one input channel; others are {message}"):
        choosable_layers(model)
    x = torch.randn(4, 32)
    found, expected = (sl.statistics.collect(each, [x])[InputNorms] for each in (model, net()))
    assert torch.equal(found["2.weight"].norms, expected["2.weight"].norms)


def test_nothing_to_prune_is_said(caplog):
    model = nn.Sequential(nn.Linear(30, 8))
    sl.Sparsifier(model, "2:4").compute()
    assert "compute() has no weight to prune: the reasons are in the column `reason` of frame" in caplog.text


def test_weights_that_are_not_loaded():
    message = "on the meta device, without values: load its weights first"
    meta = net().to("meta")
    assert sl.Sparsifier(meta, "2:4").frame["reason"].tolist() == [message] * 3
    for call in (
        lambda: sl.Sparsifier(meta, "2:4").compute(),
        lambda: sl.check(meta),
        lambda: choosable_layers(meta),
    ):
        with pytest.raises(ValueError, match=rf"'0\.weight' is {message}"):
            call()
    partly = net()
    partly[2].to("meta")
    with pytest.raises(ValueError, match=rf"the model does not run: '2\.weight' is {message} \(.*meta"):
        sl.statistics.collect(partly, [torch.randn(4, 32)])
    partly = net()
    partly[0].to("meta")
    assert_first_has_only_a_reason(partly, message)
    norm = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).to("meta")
    with pytest.raises(ValueError, match="statistics of a batch norm are on the meta device"):
        sl.recalibrate_batchnorm(norm, [torch.randn(4, 8)])


def test_a_weight_that_is_no_longer_as_its_mask_is_refused():
    cut = net()
    sparsifier = sl.Sparsifier(cut, "2:4")
    sparsifier.compute()
    optimizer = torch.optim.SGD(cut.parameters(), 0.1)
    sparsifier.attach(optimizer)
    cut[0].weight = nn.Parameter(torch.randn(60, 32))
    with pytest.raises(
        ValueError, match=r"'0\.weight' has a mask, but is now of shape \(60, 32\), its mask of \(64, 3"
    ):
        optimizer.step()
    parametrised = net()
    sparsifier = sl.Sparsifier(parametrised, "2:4")
    nn.utils.parametrizations.weight_norm(parametrised[0])
    with pytest.raises(ValueError, match=r"'0\.weight' has a mask, but is no longer a parameter of its layer"):
        sparsifier.compute()
    converted = net()
    sparsifier = sl.Sparsifier(converted, "2:4")
    sparsifier.compute()
    converted.to("meta")
    with pytest.raises(
        ValueError, match=r"without values: load its weights first; finalize\(\) and make a new Sparsif"
    ):
        sparsifier.attach(torch.optim.SGD(converted.parameters(), 0.1))
    assert not sparsifier.enabled
