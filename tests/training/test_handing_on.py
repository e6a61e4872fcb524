"""What comes after fine-tuning: int8 keeps the zeros, a GPU's sparse kernel gives the same output."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab import ASP

from .helpers import mlp


def finetuned() -> nn.Sequential:
    """Usage 5 of ASP: prune, fine-tune, then hand on."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    ASP.prune_trained_model(model, optimizer)
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    ASP.reset()
    return model


@pytest.mark.filterwarnings("ignore")
def test_int8_keeps_the_zeros():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = finetuned()
    quantised = copy.deepcopy(model)
    quantization.quantize_(quantised, quantization.Int8WeightOnlyConfig())
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    for index in (0, 2):
        plain, weight = model[index].weight.detach(), quantised[index].weight
        assert weight.qdata.dtype == torch.int8
        assert (weight.qdata[plain == 0] == 0).all()
        assert (weight.dequantize()[plain == 0] == 0).all()
        assert sl.check({"weight": weight.qdata}, "2:4")["sparse"].all()
    difference = (quantised(x) - model(x)).abs().max()
    assert difference < 0.05 * model(x).abs().max()


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_weight_is_left_and_the_frame_says_why():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = nn.Sequential(mlp(), nn.Linear(8, 16))
    quantization.quantize_(model[0], quantization.Int8WeightOnlyConfig())
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    assert list(sparsifier.masks) == ["1.weight"]
    frame = sparsifier.frame.set_index("layer")
    assert "held as a Int8Tensor (quantised or sharded)" in frame.loc["0.0.weight", "reason"]
    assert frame["density"].isna().tolist() == [True, True, False]


@pytest.mark.gpu
def test_a_semi_structured_kernel_gives_the_same_output():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    model = nn.Linear(128, 128).cuda()
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    sparsifier.finalize()
    model = model.half()
    x = torch.randn(64, 128, device="cuda", dtype=torch.half)
    expected = model(x)
    model.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(model.weight))
    torch.testing.assert_close(model(x), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
def test_training_on_a_gpu_keeps_two_of_four():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for options in ({"foreach": True}, {"fused": True}):
        model = mlp().cuda()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, **options)
        sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,2", example_inputs=torch.randn(4, 32).cuda())
        sparsifier.attach(optimizer)
        sparsifier.compute()
        scaler = torch.amp.GradScaler("cuda")
        for _ in range(5):
            optimizer.zero_grad()
            with torch.autocast("cuda"):
                loss = model(torch.randn(16, 32, device="cuda")).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert sparsifier.enabled
            assert sl.check(model, "2:4")["sparse"].all()
