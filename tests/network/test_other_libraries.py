"""Models of ``timm`` and ``torchvision``, where they are installed; sparselab needs neither."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from sparselab.network.permuting import permute

from .helpers import outputs_of, randomised, relative_error

MODELS = {
    "timm": ["vit_tiny_patch16_224", "resnet18", "convnext_atto", "efficientnet_b0"],
    "torchvision": ["resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5"],
}
SIZE = {"vit_tiny_patch16_224": 224}


def library(name: str) -> Any:
    """The module, or a skip: a torchvision that was built for another torch raises ``RuntimeError``."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in MODELS for name in MODELS[package]])
def test_outputs_stay_and_channels_move(package: str, name: str) -> None:
    module = library(package)
    fresh = module.create_model(name) if package == "timm" else getattr(module.models, name)()
    model = randomised(fresh.eval())
    size = SIZE.get(name, 64)
    picture = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    before = outputs_of(model, picture)
    report = permute(model, picture, strategy="channel_swap,0")
    assert "rolled_back" not in set(report.frame["status"])
    assert report.share_permuted >= (0.5 if name.startswith("shufflenet") else 0.95)  # its splits share few orders
    assert relative_error(before, outputs_of(model, picture)) < 1e-3
