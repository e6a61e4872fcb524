"""Forecasts beside arithmetic by hand, PyTorch's own count of flops, and what others measured."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sparselab as sl
from sparselab.deploy.hardware import Hardware, attained, hardware, hardware_names
from sparselab.deploy.measuring import _gpu
from sparselab.deploy.published import compared, published_layers, speedup_bounds
from sparselab.deploy.workload import operations

GPU = Hardware(
    "a GPU", 10, bandwidth=1000, vector=10, dense={"float16": 100}, sparse={"float16": 200}, source="made up"
)


def bounds_by_hand(outputs, channels, tokens, gpu):
    """The extremes of the times and of their ratio, one corner after another."""
    known, flops = attained(), 2 * outputs * channels * tokens
    activations = 2 * tokens * (channels + outputs)
    dense_bytes = 2 * outputs * channels + activations
    sparse_bytes = 9 / 8 * outputs * channels + activations  # half of the numbers, and 2 bits for each of these
    blocks = -(-outputs // known.tile) * -(-tokens // known.tile)
    waves = -(-blocks // gpu.multiprocessors) * gpu.multiprocessors
    idle = waves * known.tile**2 / (outputs * tokens)
    found = []
    for rate, memory, share, overlap, tiled in itertools.product(
        known.compute, known.memory, known.sparse, (max, lambda a, b: a + b), (False, True)
    ):
        split = 1 if blocks < gpu.multiprocessors else idle
        dense = overlap(
            flops / (1e6 * gpu.dense["float16"] * rate) * (split if tiled else 1),
            dense_bytes / (1e3 * gpu.bandwidth * memory),
        )
        busy = flops / (1e6 * gpu.sparse["float16"] * rate * share) * (idle if tiled else split)
        found.append((dense, overlap(busy, sparse_bytes / (1e3 * gpu.bandwidth * memory))))
    dense, sparse = np.array(found).T
    return {"dense_us": dense, "sparse_us": sparse, "speedup": dense / sparse}


@pytest.mark.parametrize(
    ("outputs", "channels", "tokens"), [(64, 128, 1), (4096, 1024, 1), (512, 512, 2048), (96, 4096, 200)]
)
def test_bounds_are_the_extremes_over_all_corners(outputs, channels, tokens):
    layer = nn.Linear(channels, outputs, bias=False)
    row = sl.forecast(layer, torch.empty(tokens, channels), hardware=GPU).frame.iloc[0]
    for name, values in bounds_by_hand(outputs, channels, tokens, GPU).items():
        assert row[f"{name}_lower"] == pytest.approx(values.min()), name
        assert row[f"{name}_upper"] == pytest.approx(values.max()), name
    moved = 2 * (outputs * channels + tokens * (channels + outputs))
    assert row["intensity"] == pytest.approx(2 * outputs * channels * tokens / moved)
    assert row["bound"] == ("memory" if row["intensity"] < 100 else "arithmetic")
    assert row["share_percent"] == pytest.approx(100)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.pointwise = nn.Conv2d(3, 32, 3, stride=2), nn.Conv2d(32, 64, 1)
        self.depthwise, self.up = nn.Conv2d(64, 64, 3, groups=64), nn.ConvTranspose2d(64, 32, 2)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.odd = nn.Linear(32, 10)

    def forward(self, x):
        x = self.up(self.depthwise(self.pointwise(self.stem(x)))).flatten(2).transpose(1, 2)
        return self.odd(self.encoder(x))


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    return Mixed()


def test_flops_are_those_that_pytorch_counts(mixed):
    x = torch.randn(2, 3, 17, 17)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixed.train()(x)  # whole attention, as the forecast has it; dropout costs no products
    found = operations(mixed, x)
    products = sum(each.flops for each in found if each.layer is not None)
    attention = sum(each.flops for each in found if each.name.startswith("_scaled_dot_product"))
    assert mixed.training
    assert attention == 2 * 2 * 2 * 49 * 49 * 32
    counted = counter.get_total_flops()
    assert products in (counted, counted - attention)


def test_what_no_kernel_takes_says_why(mixed):
    found = sl.forecast(mixed, torch.randn(2, 3, 17, 17), hardware="a100")
    reasons = found.frame.set_index("layer")["reason"]
    assert "wider than 1x1 needs TensorRT" in reasons["stem.weight"]
    assert "depthwise" in reasons["depthwise.weight"]
    assert "10 x 32" in reasons["odd.weight"]
    taken = found.frame[found.frame["kernel"] != ""]
    assert set(taken["layer"]) == {
        "pointwise.weight", "encoder.self_attn.in_proj_weight", "encoder.self_attn.out_proj.weight",
        "encoder.linear1.weight", "encoder.linear2.weight",
    }  # fmt: skip
    untaken = found.frame[found.frame["kernel"] == ""]
    assert (untaken[["speedup_lower", "speedup_upper"]] == 1).all(axis=None)
    shares = found.frame.loc[found.frame["kernel"] == "", "share_percent"].sum()
    assert found.rest["share_percent"].sum() + taken["share_percent"].sum() == pytest.approx(100)
    assert found.whole["touched_percent"][0] == pytest.approx(taken["share_percent"].sum())
    assert shares < found.rest["share_percent"].sum()
    none = sl.forecast(mixed, torch.randn(2, 3, 17, 17), "4:8")
    assert none.whole["taken"][0] == 0
    assert "no kernel takes a layer, expect 1.0 times the dense speed" in none.sentence
    assert max(map(len, str(none).splitlines())) <= 100
    assert " ".join(str(none).splitlines()) == none.sentence


def test_layers_left_out_stay_dense(mixed):
    found = sl.forecast(mixed, torch.randn(2, 3, 17, 17), include=["encoder.linear?"])
    assert found.whole["taken"][0] == 2
    assert found.frame.set_index("layer").loc["pointwise.weight", "reason"] == "not in include"
    with pytest.raises(ValueError, match="include names 'nothing', which matches no weight"):
        sl.forecast(mixed, torch.randn(2, 3, 17, 17), include="nothing")


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 200).map(lambda n: 16 * n), channels=st.integers(1, 200).map(lambda n: 16 * n),
    tokens=st.integers(1, 5000), gpu=st.sampled_from(hardware_names()),
)  # fmt: skip
def test_no_product_is_promised_more_than_its_roof(outputs, channels, tokens, gpu):
    known, reached = hardware(gpu), attained()
    lower, upper = speedup_bounds(outputs, channels, tokens, known, "float16", reached)
    with_host, _ = speedup_bounds(outputs, channels, tokens, known, "float16", reached, reached.host_us)
    roof = max(known.sparse["float16"] / known.dense["float16"], 16 / 9)
    assert 0 < with_host < lower <= upper
    assert upper <= roof * (1 + 1e-9) or outputs * tokens < reached.tile**2 * known.multiprocessors * 4


def test_amdahls_law_bounds_the_whole(mixed):
    whole = sl.forecast(mixed, torch.randn(1, 3, 65, 65), batch=[1, 16, 256]).whole
    assert (whole["speedup_lower"] <= whole["speedup_upper"]).all()
    assert (whole["speedup_upper"] <= 2).all()
    assert list(whole["batch"]) == [1, 16, 256]
    assert whole["flops"].is_monotonic_increasing


def test_only_shapes_are_needed(mixed):
    with torch.device("meta"):
        empty = Mixed()
    mine, theirs = (sl.forecast(each, torch.randn(2, 3, 17, 17)) for each in (mixed, empty))
    assert mine.frame.equals(theirs.frame)
    state = {name: each.clone() for name, each in mixed.state_dict().items()}
    sl.forecast(mixed, torch.randn(2, 3, 17, 17), batch=4096)
    assert all(torch.equal(each, state[name]) for name, each in mixed.state_dict().items())


def test_what_depends_on_values_runs_as_it_is():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, x):
            return self.fc(x[x[:, 0] > 0])

    x = torch.ones(6, 16)
    x[:2] = -1
    assert sl.forecast(Routed(), x).frame["tokens"].tolist() == [4]


def test_published_ratios_lie_within_the_bounds():
    frame = compared()
    assert len(frame) == len(published_layers())
    assert frame["inside"].all(), frame[~frame["inside"]].to_string()
    assert (frame["source"] != "").all()
    alone = frame[~frame["what"].str.contains("token|anew")]
    assert (alone["lower"] > 1).all()  # where the kernel alone was timed, it is said to pay


def test_hardware_has_sources_and_sparse_rates_that_are_twice_the_dense():
    for name in hardware_names():
        gpu = hardware(name)
        assert gpu.source
        for dtype, rate in gpu.sparse.items():
            assert rate == pytest.approx(2 * gpu.dense[dtype], rel=0.02)
    assert hardware(GPU) is GPU


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hardware": "h10"}, "unknown hardware 'h10'; valid: .*Did you mean 'h100'"),
        ({"dtype": "float64"}, "has no sparse rate for dtype='float64'; there are float16"),
        ({"hardware": "a100", "dtype": "fp8"}, "has no sparse rate for dtype='fp8'"),
        ({"pattern": "unstructured,0.5"}, "needs an N:M pattern"),
        ({"batch": 0}, "batch=0: give a number of examples"),
        ({"batch": []}, r"batch=\[\] names no batch"),
    ],
)
def test_what_cannot_be_forecast_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sl.forecast(nn.Linear(16, 16), torch.empty(2, 16), **options)


def test_inputs_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="forecast takes one example, got a list of 2"):
        sl.forecast(nn.Linear(16, 16), [torch.randn(2, 16), torch.randn(3, 16)])
    with pytest.raises(ValueError, match="this ReLU has no Linear, convolution or attention layer to forecast"):
        sl.forecast(nn.ReLU(), torch.empty(2, 16))
    with pytest.raises(ValueError, match="Linear failed on example inputs"):
        sl.forecast(nn.Linear(16, 16), torch.empty(2, 17))
    with pytest.raises(ValueError, match=re.escape("tensors of [(2, 16), (3, 16)]")):
        sl.forecast(nn.Linear(16, 16), (torch.empty(2, 16), torch.empty(3, 16)), batch=4)


def test_the_figure_has_a_panel_for_each_batch(mixed):
    figure = sl.forecast(mixed, torch.randn(1, 3, 17, 17), batch=[1, 8]).plot()
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == ["batch 1", "batch 8"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured():
    with pytest.raises(ValueError, match="benchmark measures on a CUDA device, and there is none here"):
        sl.benchmark(nn.Linear(16, 16), torch.empty(1, 16))


def test_gpus_are_known_by_the_names_that_drivers_give():
    names = {
        "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H100 PCIe": "h100-pcie", "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA A100-SXM4-40GB": "a100-40gb", "NVIDIA GeForce RTX 3090": "rtx3090", "NVIDIA L40S": "l40s",
        "NVIDIA RTX A6000": "a6000", "NVIDIA H200": "h200", "Tesla V100": None,
    }  # fmt: skip
    for name, key in names.items():
        assert _gpu(name) == (None if key is None else hardware(key)), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_layers_are_measured_and_right():
    found = sl.benchmark(nn.Sequential(nn.Linear(1024, 2048), nn.Linear(2048, 10)), torch.randn(256, 1024))
    assert found.frame["layer"].tolist() == ["0.weight"]
    assert (found.frame["difference"] < 1e-2).all()


def test_the_widget_follows_what_is_chosen(mixed):
    pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
    panel = sl.widgets.SpeedForecast(mixed, torch.randn(1, 3, 17, 17), hardware="a100")
    assert panel.forecast.sentence in panel._sentence.value.replace("&#x27;", "'")
    panel.batch = 64
    assert panel.frame["batch"].unique().tolist() == [64]
    with pytest.raises(ValueError, match="has no sparse rate for dtype='float8'"):
        panel.dtype = "float8"
    panel.hardware = "h100"
    panel.dtype = "torch.float8_e4m3fn"
    assert "float8 on NVIDIA H100" in panel.forecast.sentence
    with pytest.raises(Exception, match="unknown hardware 'x'"):
        panel.hardware = "x"
    with pytest.raises(ValueError, match=r"NVIDIA A100.* has no sparse rate for dtype='float8'"):
        sl.widgets.SpeedForecast(mixed, torch.randn(1, 3, 17, 17), hardware="a100", dtype="float8")


def test_the_widget_offers_the_precisions_that_the_gpu_has(mixed):
    pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
    panel = sl.widgets.SpeedForecast(mixed, torch.randn(1, 3, 17, 17), hardware="l4", dtype="float8")
    assert panel._controls["dtype"].options == ("float16", "bfloat16", "int8", "float8")
    panel.hardware = "a10"
    assert panel._controls["dtype"].options == ("float16", "bfloat16", "int8")
    assert (panel.dtype, panel._controls["dtype"].value) == ("float16", "float16")
    assert panel._replaced.value == "NVIDIA A10 has no sparse kernels for float8: float16 instead."
    assert panel._sentence.value.startswith(panel.forecast.sentence[:20])
    assert "float16" in panel._picture.text
    panel.dtype = "int8"
    assert panel._replaced.value == ""
    panel.hardware = "l4"
    assert (panel.dtype, panel._replaced.value) == ("int8", "")


def test_the_widget_takes_any_batch_by_slider_and_field():
    pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
    panel = sl.widgets.SpeedForecast(nn.Linear(64, 64), torch.randn(1, 64), batch=3)
    slider, field = panel._controls["batch"].children
    assert (slider.value, field.value, panel.frame["batch"].tolist()) == (3, 3, [3])
    field.value = 48
    assert (slider.value, panel.batch, panel.frame["batch"].tolist()) == (48, 48, [48])
    slider.value = 512
    assert (field.value, panel.batch) == (512, 512)
    assert slider.options == (1, 2, 3, 4, 8, 16, 32, 48, 64, 128, 256, 512)


def test_a_model_all_of_which_a_kernel_takes_has_a_sentence():
    found = sl.forecast(nn.Linear(64, 64, bias=False), torch.randn(1, 64))
    assert found.rest.empty
    assert "Hardly any of the time is in what no sparse kernel takes." in found.sentence
