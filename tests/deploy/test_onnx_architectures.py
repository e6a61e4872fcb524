"""Twenty architectures as ONNX files; oracle: onnxruntime's outputs beside PyTorch's, and groups counted by numpy where ONNX sums."""

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import sparselab as sl
from sparselab.core.layers import layer_weights
from tests.deploy.architectures import ARCHITECTURES, INPUTS, PATTERNS, RECURRENT, pruned

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

AXES = {"Conv": [(1, 1)], "ConvTranspose": [(1, 0)], "MatMul": [(0, -1), (1, -2)], "LSTM": [(1, 2), (2, 2)]}
"""Which inputs of an operator may be weights, and the axis of each that it sums over."""


def axes(node):
    if node.op_type == "Gemm":
        flipped = {each.name: each.i for each in node.attribute}
        return [(0, 0 if flipped.get("transA") else 1), (1, 1 if flipped.get("transB") else 0)]
    return AXES.get(node.op_type, [])


def violations(weight, axis, pattern):
    """Groups of M along ``axis`` with more than N non-zeros, the last one filled up with zeros."""
    n, m = map(int, pattern.split(":"))
    last = np.moveaxis(np.asarray(weight), axis, -1)
    filled = np.pad(last != 0, [(0, 0)] * (last.ndim - 1) + [(0, -last.shape[-1] % m)])
    return int((filled.reshape(*filled.shape[:-1], -1, m).sum(-1) > n).sum())


def multiplied(file):
    """``(node, weight, axis)`` for each stored tensor that an operator multiplies with; experts are picked before."""
    graph = onnx.load(file).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored |= {
        node.output[0]: stored[node.input[0]]
        for node in graph.node
        if node.op_type == "GatherND" and stored.get(node.input[0], np.zeros(0)).ndim == 3
    }
    for node in graph.node:
        for position, axis in axes(node):
            if position < len(node.input) and node.input[position] in stored:
                yield node.name, stored[node.input[position]], axis


def as_positional(given):
    return ((), given) if isinstance(given, dict) else (given, {})


def arrays(given):
    return [leaf.numpy() for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "dtypes_mixed"])
def test_every_zero_arrives(name, tmp_path):
    torch.manual_seed(0)
    model, given, pattern = pruned(name), INPUTS[name](), PATTERNS[name]
    custom = RECURRENT if name == "recurrent" else None
    file = tmp_path / "model.onnx"
    frame = sl.export_onnx(model, given, file, pattern, custom=custom)

    running = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = running.run(None, dict(zip([each.name for each in running.get_inputs()], arrays(given))))
    args, kwargs = as_positional(given)
    with torch.no_grad():
        expected = arrays(model(*args, **kwargs))
    for mine, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=(1e-2 if mine.dtype == np.float16 else 1e-5))

    counted = sorted((node, violations(weight, axis, pattern)) for node, weight, axis in multiplied(file))
    assert sorted(zip(frame["node"], frame["violations"])) == counted
    assert frame["is_sparse"].tolist() == (frame["violations"] == 0).tolist()
    judged = sl.check(file, pattern)
    assert judged["is_sparse"].sum() == frame["is_sparse"].sum()

    keep = {
        layer.name
        for layer in layer_weights(model)
        if not violations(layer.weight.detach().cpu(), layer.channel_dim, pattern)
    }
    assert keep <= set(frame[frame["is_sparse"]]["layer"])
    assert frame["is_sparse"].sum() >= max(1, len(keep))


def test_bfloat16_is_refused_before_anything_is_written(tmp_path):
    model = pruned("dtypes_mixed")
    with pytest.raises(ValueError, match=r"'a.weight' is bfloat16, .* export model.float\(\) or model.half\(\)"):
        sl.export_onnx(model, INPUTS["dtypes_mixed"](), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"no bfloat16: give model and inputs in another dtype"):
        sl.export_onnx(torch.nn.LayerNorm(4).bfloat16(), torch.ones(2, 4).bfloat16(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_copies_of_a_layer_have_their_own_names(tmp_path):
    """The layers of an encoder begin as copies, which a file holds once."""
    frame = sl.export_onnx(pruned("encoder"), INPUTS["encoder"](), tmp_path / "model.onnx", "4:8")
    assert frame["layer"].is_unique
    assert len(set(frame["initializer"])) < len(frame)
