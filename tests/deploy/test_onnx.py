"""What is in an ONNX file as its operators multiply it; oracle: numpy, along the axis that ONNX's specification sums over."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import sparselab as sl

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sparselab.core.layers import layer_weights  # noqa: E402
from sparselab.deploy import onnx_export, onnx_weights  # noqa: E402
from sparselab.deploy.onnx_int8 import quantize_onnx  # noqa: E402

RNG = np.random.default_rng(0)


def violations(weight, axis, n=2, m=4):
    """Groups of ``m`` along ``axis`` with more than ``n`` non-zeros, by numpy."""
    last = np.moveaxis(np.asarray(weight), axis, -1)
    return int((np.count_nonzero(last.reshape(-1, m), axis=1) > n).sum())


def prune(weight, channel_dim=1):
    with torch.no_grad():
        weight.mul_(sl.create_mask(weight, "2:4", channel_dim=channel_dim))


class Everything(nn.Module):
    """A layer of each kind: batch norm folded before and after pruning, packed attention, tied embedding, depthwise."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)
        folded, norm = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        for each in (self.norm, norm):
            nn.init.uniform_(each.weight, 0.5, 2.0)
            each.running_var.uniform_(0.5, 2.0)
        self.folded = fuse_conv_bn_eval(folded.eval(), norm.eval())
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.transposed = nn.ConvTranspose2d(16, 8, 2)
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 32, bias=False)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.embedding = nn.Embedding(12, 32)

    def forward(self, x, tokens):
        x = self.transposed(self.depthwise(self.folded(self.norm(self.conv(x)).relu()))).mean((2, 3))
        x = self.embedding(tokens) + self.second(self.first(x).relu())[:, None]
        x = self.attention(x, x, x, need_weights=False)[0]
        return {"scores": x @ self.embedding.weight.t(), "hidden": x}


INPUTS = (torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10).reshape(2, 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pruned model, its file, and the frame of its export."""
    torch.manual_seed(0)
    model = Everything()
    for layer in layer_weights(model):
        if layer.name != "depthwise.weight":
            prune(layer.weight, layer.channel_dim)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    dynamic = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
    frame = sl.export_onnx(model, INPUTS, file, dynamic_shapes=dynamic)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    return model, file, frame


def test_every_pruned_layer_is_found_in_the_file_by_its_name(made):
    model, file, frame = made
    rows = frame.set_index("layer")
    assert {layer.name for layer in layer_weights(model)} <= set(frame["layer"])
    assert rows.drop("")["is_sparse"].all()
    assert rows.loc["attention.in_proj_weight", "op"] == "MatMul"
    assert rows.loc["attention.in_proj_weight", "channel_dim"] == 0
    assert rows.loc["conv.weight", "density"] == 0.5  # its batch norm has been folded into it
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(file).graph.node)
    assert not rows.loc["", "is_sparse"]  # the product with the embedding, which was not pruned
    assert frame.attrs["difference"] < 1e-4


def test_the_file_runs_with_another_batch(made):
    model, file, _ = made
    x, tokens = torch.randn(3, 8, 8, 8), torch.randint(0, 12, (3, 5))
    found = onnx_export.run_onnx(file, (x, tokens))
    with torch.no_grad():
        expected = model.eval()(x, tokens)
    np.testing.assert_allclose(found[0], expected["scores"].numpy(), atol=1e-4)
    with pytest.raises(ValueError, match=r"takes 2 inputs \(.*got 1 tensors"):
        onnx_export.run_onnx(file, x)


def test_check_judges_any_file_and_shows_what_it_cannot_judge(made):
    _, file, frame = made
    rows = sl.check(file).set_index("layer")
    assert rows.loc["embedding.weight", "reason"] == "read by Gather, which is not known to sum over its input channels"
    assert not rows.loc["embedding.weight", "is_sparse"]
    assert np.isnan(rows.loc["embedding.weight", "violations"])
    for row in frame.itertuples():
        assert rows.loc[row.initializer, "violations"] == row.violations
        assert rows.loc[row.initializer, "is_sparse"] == row.is_sparse
    with pytest.raises(ValueError, match="entry='ema' is for states"):
        sl.check(file, entry="ema")


def test_zeros_lost_on_the_way_are_an_error_that_names_the_layer(made, tmp_path):
    model, file, frame = made
    stored = onnx.load(file)
    names = ["second.weight", frame.set_index("layer").loc["attention.in_proj_weight", "initializer"]]
    for tensor in stored.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e-6), tensor.name))
    onnx.save(stored, tmp_path / "lost.onnx")
    pattern = onnx_export.grouped("2:4")
    lost = onnx_weights.weights_of_file(tmp_path / "lost.onnx", pattern, list(layer_weights(model)))
    assert lost.set_index("layer").loc["second.weight", "violations"] == 32 * 8
    with pytest.raises(ValueError, match=r"zeros were lost .*second.weight \(stored as second.weight\): 256 of 256"):
        onnx_weights.require_zeros(lost, list(layer_weights(model)), pattern, file)
    with pytest.raises(ValueError, match=r"attention\.in_proj_weight is not in the file by its name or its values"):
        onnx_weights.require_zeros(lost, list(layer_weights(model)), pattern, file)


def test_int8_keeps_every_zero(made, tmp_path):
    _, file, frame = made
    batches = [(torch.randn(2, 8, 8, 8), torch.randint(0, 12, (2, 5))) for _ in range(3)]
    quantized = quantize_onnx(file, tmp_path / "int8.onnx", batches)
    both = frame.merge(quantized, on="node", suffixes=("", "_int8"))
    assert len(both) == len(frame)
    assert (both["is_sparse_int8"] >= both["is_sparse"]).all()
    assert (both["density_int8"] <= both["density"]).all()
    assert both["steps_int8"].str.contains("DequantizeLinear").all()
    assert 0 < quantized.attrs["difference"] < 1
    rows = sl.check(tmp_path / "int8.onnx")
    assert rows["reason"].str.contains("after DequantizeLinear").sum() == len(quantized)
    with pytest.raises(ValueError, match="calibration holds no batch"):
        quantize_onnx(file, tmp_path / "int8.onnx", [])


def half(shape, axis):
    """Random numbers with two of four kept along ``axis``, but for one group with three."""
    values = np.moveaxis(RNG.normal(size=shape), axis, -1)
    groups = values.reshape(-1, 4)
    groups[:, 2:] = 0
    groups[0, 2] = 1
    return np.ascontiguousarray(np.moveaxis(groups.reshape(values.shape), -1, axis)).astype(np.float32)


def node(op, *inputs, out="y", **attributes):
    return helper.make_node(op, list(inputs), [out], name=f"the_{op}", **attributes)


def scales(count):
    return np.linspace(0.01, 0.02, count).astype(np.float32)


def integers(weight, zero):
    return np.where(weight == 0, zero, zero + 5 + (np.abs(weight) * 10).astype(int))


KN, NK = half((8, 12), 0), half((12, 8), 1)
CONV, DECONV = half((12, 8, 3, 3), 1), half((8, 12, 3, 3), 0)
STORED = {  # how a weight is stored, the operators, and the weight as it is multiplied with its axis of channels
    "MatMul": ({"w": KN}, [node("MatMul", "x", "w")], (KN, 0)),
    "MatMul, weight first": ({"w": NK}, [node("MatMul", "w", "x")], (NK, 1)),
    "stacked": ({"w": half((3, 8, 12), 1)}, [node("MatMul", "x", "w")], (half((3, 8, 12), 1), 1)),
    "Gemm": ({"w": KN}, [node("Gemm", "x", "w")], (KN, 0)),
    "Gemm, transB": ({"w": NK}, [node("Gemm", "x", "w", transB=1)], (NK, 1)),
    "transposed": ({"w": NK}, [node("Transpose", "w", out="t", perm=[1, 0]), node("MatMul", "x", "t")], (KN, 0)),
    "Conv": ({"w": CONV}, [node("Conv", "x", "w")], (CONV, 1)),
    "ConvTranspose": ({"w": DECONV}, [node("ConvTranspose", "x", "w")], (DECONV, 0)),
    "half": (
        {"w": NK.astype(np.float16)},
        [node("Cast", "w", out="t", to=TensorProto.FLOAT), node("Gemm", "x", "t", transB=1)],
        (NK, 1),
    ),
    "a scale for each output": (
        {"w": NK, "s": scales(12)[:, None]},
        [node("Mul", "w", "s", out="t"), node("Gemm", "x", "t", transB=1)],
        (NK, 1),
    ),
    "Q/DQ of stored floats": (
        {"w": NK * 10, "s": scales(12), "z": np.zeros(12, np.int8)},
        [
            node("QuantizeLinear", "w", "s", "z", out="q", axis=0),
            node("DequantizeLinear", "q", "s", "z", out="t", axis=0),
            node("Gemm", "x", "t", transB=1),
        ],
        (NK, 1),
    ),
    "DQ of stored int8": (
        {"w": integers(NK, 0).astype(np.int8), "s": scales(12), "z": np.zeros(12, np.int8)},
        [node("DequantizeLinear", "w", "s", "z", out="t", axis=0), node("Gemm", "x", "t", transB=1)],
        (NK, 1),
    ),
    "DQ of stored uint8, zero is 128": (
        {"w": integers(NK, 128).astype(np.uint8), "s": scales(1)[0], "z": np.array(128, np.uint8)},
        [
            node("DequantizeLinear", "w", "s", "z", out="d"),
            node("Transpose", "d", out="t"),
            node("MatMul", "x", "t"),
        ],
        (KN, 0),
    ),
    "MatMulInteger, zero is 128": (
        {"w": integers(KN, 128).astype(np.uint8), "xz": np.array(0, np.uint8), "z": np.full(12, 128, np.uint8)},
        [node("MatMulInteger", "x", "w", "xz", "z")],
        (KN, 0),
    ),
    "ConvInteger": (
        {"w": integers(CONV, 3).astype(np.int8), "xz": np.array(0, np.int8), "z": np.full(12, 3, np.int8)},
        [node("ConvInteger", "x", "w", "xz", "z")],
        (CONV, 1),
    ),
    "LSTM": (
        {"w": half((1, 32, 8), 2), "r": half((1, 32, 8), 2)},
        [node("LSTM", "x", "w", "r", hidden_size=8)],
        (half((1, 32, 8), 2), 2),
    ),
}
STORED["transposed"] = ({"w": NK}, STORED["transposed"][1], (NK.T, 0))
STORED["DQ of stored uint8, zero is 128"] = (*STORED["DQ of stored uint8, zero is 128"][:2], (NK.T, 0))


def write(file, tensors, nodes, *, inputs=(), opset=21):
    """A file of ``nodes``, whose ``inputs`` are indices: names with shapes."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "one layer",
        [value("x", TensorProto.FLOAT, None), *(value(name, TensorProto.INT64, shape) for name, shape in inputs)],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), file)
    return file


@pytest.mark.parametrize("opset", [13, 17, 21, 24])
@pytest.mark.parametrize("way", STORED)
def test_however_a_weight_is_stored(way, opset, tmp_path):
    tensors, nodes, (weight, axis) = STORED[way]
    file = write(tmp_path / "a.onnx", tensors, nodes, opset=opset)
    frame = sl.check(file)
    row = frame[frame["layer"] == "w"].iloc[0]
    assert row["violations"] == violations(weight, axis) == 1
    assert row["groups"] == weight.size // 4
    assert row["channel_dim"] == axis
    assert row["shape"] == weight.shape
    assert row["density"] == pytest.approx(np.count_nonzero(weight) / weight.size)
    assert sl.check(file, "3:4").set_index("layer").loc["w", "is_sparse"]
    steps = [each.op_type for each in nodes[:-1]]
    assert not steps or f"after {', '.join(steps)}" in row["reason"]


EXPERTS = half((3, 12, 8), 2)
PICKED = {  # the shape of the indices, and how picked matrices are multiplied
    "Gather": ((None,), [node("Gather", "w", "i", out="p"), node("MatMul", "p", "x")]),
    "GatherND": ((None, 1), [node("GatherND", "w", "i", out="p"), node("MatMul", "p", "x")]),
    "turned": (
        (None,),
        [
            node("Gather", "w", "i", out="p"),
            node("Transpose", "p", out="t", perm=[0, 2, 1]),
            node("MatMul", "x", "t"),
        ],
    ),
    "Q/DQ": (
        (None,),
        [
            node("Gather", "w", "i", out="p"),
            node("QuantizeLinear", "p", "s", "z", out="q"),
            node("DequantizeLinear", "q", "s", "z", out="d"),
            node("MatMul", "d", "x"),
        ],
    ),
}


@pytest.mark.parametrize("way", PICKED)
def test_experts_that_the_input_picks_are_judged_as_a_pack(way, tmp_path):
    shape, nodes = PICKED[way]
    tensors = {"w": EXPERTS, "s": np.float32(0.001), "z": np.int8(0)}
    row = sl.check(write(tmp_path / "a.onnx", tensors, nodes, inputs=[("i", shape)])).set_index("layer").loc["w"]
    assert row["violations"] == violations(EXPERTS, 2) == 1
    assert row["groups"] == EXPERTS.size // 4
    assert sorted(row["shape"]) == sorted(EXPERTS.shape)


def test_packs_are_left_alone_where_more_is_done_to_what_was_picked(tmp_path):
    scaled = [
        node("Gather", "w", "i", out="p"),
        node("Mul", "p", "s", out="m"),
        node("MatMul", "m", "x"),
    ]
    tensors = {"w": EXPERTS, "s": np.ones((5, 1, 1), np.float32)}
    for nodes, shape in ((scaled, (None,)), (PICKED["turned"][1], (None, None)), (PICKED["Gather"][1], None)):
        frame = sl.check(write(tmp_path / "a.onnx", tensors, nodes, inputs=[("i", shape)])).set_index("layer")
        assert frame.loc["w", "reason"] == "read by Gather, which is not known to sum over its input channels"
        assert not frame.loc["w", "is_sparse"]


def test_external_data_are_read_and_missed(made, tmp_path):
    _, file, frame = made
    outside = tmp_path / "outside.onnx"
    onnx.save(onnx.load(file), outside, save_as_external_data=True, location="outside.data", size_threshold=100)
    assert sl.check(outside).drop(columns="reason").equals(sl.check(file).drop(columns="reason"))
    batches = [(torch.randn(2, 8, 8, 8), torch.randint(0, 12, (2, 5)))]
    quantized = quantize_onnx(outside, tmp_path / "int8.onnx", batches)
    assert quantized["is_sparse"].sum() >= frame["is_sparse"].sum()
    data = tmp_path / "outside.data"
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot read .* of .*outside.onnx"):
        sl.check(outside)
    data.unlink()
    with pytest.raises(ValueError, match=r"cannot read .* of .*outside.onnx"):
        sl.check(outside)
    with pytest.raises(ValueError, match=r"cannot read .* of .*outside.onnx"):
        quantize_onnx(outside, tmp_path / "again.onnx", batches)
    assert not (tmp_path / "again.onnx").exists()


def test_what_is_no_onnx_file_is_refused(tmp_path, made):
    (tmp_path / "text.onnx").write_text("not an onnx file")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes(made[1].read_bytes()[:1000])
    for name in ("text", "empty", "cut"):
        with pytest.raises(ValueError, match=r"is no ONNX file that can be read|cannot read"):
            sl.check(tmp_path / f"{name}.onnx")
    with pytest.raises(ValueError, match="no such file"):
        sl.check(tmp_path / "none.onnx")


class Eigenvalues(nn.Module):
    """What ONNX has no operator for."""

    def forward(self, x):
        return torch.linalg.eigvalsh(x @ x.mT)


def test_an_operator_that_onnx_has_not_is_named_with_its_module(tmp_path):
    model = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(8, 8), Eigenvalues())})
    with pytest.raises(ValueError, match=r"no translation of aten._linalg_eigh.default, which '1' calls in test_onnx"):
        sl.export_onnx(model["inner"], torch.randn(8, 8), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"the model itself calls .*\. Write that part with operators that ONNX has"):
        sl.export_onnx(Eigenvalues(), torch.randn(8, 8), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
    picture = torch.randn(1, 4, 5, 5).double()
    with pytest.raises(ValueError, match=r"NOT_IMPLEMENTED .*, of the module '0'\. .* export the model in another"):
        sl.export_onnx(nn.Sequential(nn.Conv2d(4, 4, 3)).double(), picture, tmp_path / "a.onnx")


def test_wrong_arguments_are_refused_before_any_work(tmp_path):
    layer, x, file = nn.Linear(8, 8), torch.randn(1, 8), tmp_path / "a.onnx"
    with pytest.raises(ValueError, match=r"an ONNX file's name ends in .onnx, got '.*a.pt'"):
        sl.export_onnx(layer, x, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not exist: make it first"):
        sl.export_onnx(layer, x, tmp_path / "none" / "a.onnx")
    with pytest.raises(ValueError, match="needs an N:M pattern"):
        sl.export_onnx(layer, x, file, "unstructured,0.5")
    for wrong in (-1, float("nan"), "small", True):
        with pytest.raises(ValueError, match=r"tolerance=.*a finite number from 0 on"):
            sl.export_onnx(layer, x, file, tolerance=wrong)
    for wrong in (3, [], [{0: torch.export.Dim.DYNAMIC}, None], {"x": None}):
        with pytest.raises(ValueError, match=r"dynamic_shapes=.*one entry for each of the 1 positional inputs"):
            sl.export_onnx(layer, x, file, dynamic_shapes=wrong)
    with pytest.raises(ValueError, match=r"dynamic_shapes=\[None\]: inputs by keyword take a mapping of input"):
        sl.export_onnx(layer, {"input": x}, file, dynamic_shapes=[None])
    with pytest.raises(ValueError, match=r"Linear failed on the example inputs: .*shapes cannot be multiplied"):
        sl.export_onnx(layer, torch.randn(1, 9), file)
    with pytest.raises(ValueError, match=r"'weight' is on the meta device, without values"):
        sl.export_onnx(nn.Linear(8, 8, device="meta"), x, file)
    with pytest.raises(ValueError, match=r"'weight' is not initialised yet"):
        sl.export_onnx(nn.LazyLinear(8), x, file)
    assert not list(tmp_path.iterdir())


def test_int8_refuses_what_it_cannot_write_or_feed(made, tmp_path):
    _, file, _ = made
    whole = (torch.randn(2, 8, 8, 8), torch.randint(0, 12, (2, 5)))
    with pytest.raises(ValueError, match=r"an ONNX file's name ends in .onnx, got '.*int8'"):
        quantize_onnx(file, tmp_path / "int8", [whole])
    with pytest.raises(ValueError, match="does not exist: make it first"):
        quantize_onnx(file, tmp_path / "none" / "a.onnx", [whole])
    with pytest.raises(ValueError, match=r"is the file itself: name another"):
        quantize_onnx(file, file, [whole])
    with pytest.raises(ValueError, match=r"takes 2 inputs \(.*got 1 tensors"):
        quantize_onnx(file, tmp_path / "int8.onnx", [whole, whole[0]])
    with pytest.raises(ValueError, match=r"does not run on these inputs"):
        quantize_onnx(file, tmp_path / "int8.onnx", [(whole[0][0], whole[1])])
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"differ from the model's by 2.0e-01 .* more than 1e-03"):
        onnx_export._require_close(0.2, 1e-3, tmp_path / "a.onnx")
