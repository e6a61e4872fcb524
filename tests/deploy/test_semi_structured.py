"""Layers on packed weights, on a CPU: PyTorch's kernel is stood in for by a dense product of what it is given."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor
from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass

import sparselab as sl
from sparselab.core.layers import layer_weights
from sparselab.deploy.layout import LAYOUTS
from sparselab.deploy.semi_structured import convert


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """What ``torch._sparse_semi_structured_mm`` and ``addmm`` compute."""

    def mm(packed, metadata, dense, **options):
        return (sparse_semi_structured_to_dense_cutlass(packed, metadata).float() @ dense.float()).to(dense.dtype)

    def addmm(bias, packed, metadata, dense, **options):
        return (mm(packed, metadata, dense).float() + bias.float()[:, None]).to(dense.dtype)

    monkeypatch.setattr(torch, "_sparse_semi_structured_mm", mm)
    monkeypatch.setattr(torch, "_sparse_semi_structured_addmm", addmm)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pointwise = nn.Conv2d(64, 64, 1, stride=2)
        self.line = nn.Conv1d(64, 64, 1, bias=False)
        self.wide = nn.Conv2d(64, 64, 3, padding=1)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(64, 2, 128, dropout=0, batch_first=True), 1, enable_nested_tensor=False
        )
        self.cross = nn.MultiheadAttention(64, 2, batch_first=True)
        self.head = nn.Linear(64, 32)
        self.odd = nn.Linear(64, 20)

    def forward(self, x):
        x = self.wide(self.pointwise(x)).flatten(2)
        x = self.encoder(self.line(x).transpose(1, 2))
        x, _ = self.cross(x, x[:, :2], x[:, :2])
        return self.odd(x), self.head(x)


def pruned(model=None):
    model = Net().half().eval() if model is None else model
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    sparsifier.finalize()
    return model.requires_grad_(False)


def packed(model, *left):
    convert(model, [w for w in layer_weights(model) if w.name not in left], LAYOUTS.resolve("cutlass"))
    return model


def answers(model):
    with torch.no_grad():
        return model(torch.randn(2, 64, 6, 6, generator=torch.Generator().manual_seed(1)).half())


def require_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=4e-3)


LEFT = ("wide.weight", "odd.weight")


def test_the_same_outputs_state_copies_and_the_way_back():
    dense = pruned()
    model = packed(copy.deepcopy(dense), *LEFT)
    assert isinstance(model.head.weight, SparseSemiStructuredTensor)
    assert sum(isinstance(p, SparseSemiStructuredTensor) for p in model.parameters()) == 13  # attention has four each
    require_close(answers(model), answers(dense))
    twin = copy.deepcopy(model)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    assert state.keys() == dense.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in dense.state_dict().items())
    other = pruned(Net().half().eval())
    model.load_state_dict(other.state_dict())
    require_close(answers(model), answers(other))
    require_close(answers(twin), answers(dense))
    names = sl.deploy.to_dense(twin)
    assert len(names) == 13
    assert "head.weight" in names
    assert [type(module) for module in twin.modules()] == [type(module) for module in dense.modules()]
    assert list(twin.state_dict()) == list(dense.state_dict())
    assert all(torch.equal(twin.state_dict()[name], tensor) for name, tensor in dense.state_dict().items())
    require_close(answers(twin), answers(dense))
    assert sl.deploy.to_dense(twin) == []


def test_what_cannot_be_packed_is_not_loaded():
    model = packed(pruned(nn.Sequential(nn.Linear(64, 32).half())))
    before = model.state_dict()
    for weight, words in (
        (torch.ones(32, 64), "1024 weights are not 2:4"),
        (torch.zeros(32, 32), r"has shape \(32, 32\)"),
    ):
        with pytest.raises(RuntimeError, match=words):
            model.load_state_dict({"0.weight": weight.half(), "0.bias": torch.zeros(32)})
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.weight"):
        model.load_state_dict({"0.bias": torch.zeros(32)})
    assert torch.equal(model.state_dict()["0.weight"], before["0.weight"])


def test_compiled():
    model = packed(pruned(nn.Sequential(nn.Linear(64, 64).half(), nn.ReLU(), nn.Linear(64, 32).half())))
    x = torch.randn(8, 64).half()
    with torch.no_grad():
        wanted = model(x)
        require_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), wanted)


def test_the_frame_says_why_not():
    model = pruned()
    model.tied = nn.Linear(64, 32, bias=False).half()
    model.tied.weight = model.head.weight
    model.dense = nn.Linear(64, 32).half()
    model.cut = nn.Conv2d(64, 64, 1, padding=1).half()
    sl.Sparsifier(model, "2:4", include=["cut"]).compute()
    with pytest.raises(ValueError, match="finalize"):
        sl.to_semi_structured(model)
    for name in [name for name, _ in model.cut.named_buffers()]:
        delattr(model.cut, name)
    frame = sl.to_semi_structured(model, exclude="line").set_index("layer")
    assert not frame["converted"].any()
    words = {
        "pointwise.weight": "on the cpu: the kernel runs on an NVIDIA GPU",
        "cross.in_proj_weight": "on the cpu",
        "line.weight": "in exclude",
        "wide.weight": "only a convolution of size 1 without groups",
        "head.weight": "tied: tied.weight is the same tensor",
        "odd.weight": "20 x 64: the kernel wants multiples of 16",
        "dense.weight": "groups keep more than 2",
        "cut.weight": "puts zeros around the input",
    }
    for name, part in words.items():
        assert part in frame.loc[name, "reason"], (name, frame.loc[name, "reason"])
    with pytest.raises(ValueError, match="unknown layout 'marlin'; valid: cusparselt, cutlass"):
        sl.to_semi_structured(model, layout="marlin")
    cutlass = sl.to_semi_structured(model, layout="cutlass", include="odd").set_index("layer")
    assert cutlass.loc["odd.weight", "reason"] == "20 x 64: the kernel wants multiples of 32 x 64"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", ["cusparselt", "cutlass"])
def test_on_a_gpu(layout, monkeypatch):
    monkeypatch.undo()
    dense = pruned().cuda()
    model = copy.deepcopy(dense)
    frame = sl.to_semi_structured(model, layout=layout)
    if layout == "cusparselt":
        assert frame["converted"].sum() == 9
    x = torch.randn(2, 64, 6, 6).half().cuda()
    with torch.no_grad():
        for one, other in zip(model(x), dense(x)):
            assert torch.allclose(one.float(), other.float(), atol=4e-3)
    sl.deploy.to_dense(model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in dense.state_dict().items())
