"""EfficientNet-Lite0 with its ImageNet weights, fine-tuned and judged on a folder of labelled pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparselab.tasks.efficientnet_lite import efficientnet_lite0, scale_pixels
from sparselab.tasks.pictures import LabelledPictures
from sparselab.tasks.task import Recipe, Task


@dataclass(frozen=True, eq=False)
class Scaled:
    """Labelled pictures as data of a task: batches are scaled for EfficientNet-Lite."""

    pictures: LabelledPictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.pictures[indices]
        return scale_pixels(chosen.pixels), chosen.labels


@dataclass(frozen=True)
class ImagenetFolder:
    """The even pictures of ``folder`` to train on, the odd ones to evaluate (see ``LabelledPictures``).

    A few hundred pictures are enough to compare pruned networks, not to quote an accuracy. The dense network comes
    trained: ``recipe`` has 0 epochs of it to do. The 1x1 convolutions of the blocks are pruned.
    """

    folder: str | None = None
    epochs: float = 2.0

    def __call__(self) -> Task:
        """The task. Raises ``FileNotFoundError`` saying what was looked for."""
        pictures = LabelledPictures.load(self.folder)
        return Task(
            name="imagenet_folder",
            model=_network,
            train_data=Scaled(pictures[::2]),
            eval_data=Scaled(pictures[1::2]),
            example_inputs=scale_pixels(pictures.pixels[:1]),
            recipe=Recipe("sgd,0.005", epochs=0, batch_size=25),
            finetuning=Recipe("sgd,0.005", epochs=self.epochs, batch_size=25),
            include=("_blocks*",),
        )


def _network() -> nn.Module:
    """Ready to fine-tune: its own batch norm momentum (0.01) and drop connect cost it dearly on few steps."""
    model = efficientnet_lite0()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.1
    _without_drop_connect(model)
    return model


def _without_drop_connect(model: nn.Module) -> None:
    options = getattr(model, "_global_params", None)
    if options is not None and getattr(options, "drop_connect_rate", None):
        model._global_params = options._replace(drop_connect_rate=0.0)
