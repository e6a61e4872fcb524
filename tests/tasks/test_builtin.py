"""The built-in tasks: each loads, traces, trains a step and can be pruned; readers say what they looked for."""

from __future__ import annotations

import gzip

import pytest
import torch

from sparselab.core.layers import layer_weights
from sparselab.metrics import measure
from sparselab.metrics.metric import as_metrics
from sparselab.tasks import TASKS, evaluate, fresh_model, get_task, train
from sparselab.tasks.fashion_mnist import read_idx
from sparselab.tasks.images import Images, ShiftAndFlip
from sparselab.tasks.task import Task
from sparselab.testing import TaskContract

SPECS = [
    "digits",
    "fashion_mnist,residual,examples=512",
    "fashion_mnist,plain,examples=512",
    "fashion_mnist,depthwise,examples=512",
    "cifar10,examples=256",
    "imagenet_folder",
    "sentiment,examples=64",
]


def a_task(spec: str) -> Task:
    try:
        return get_task(spec)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        pytest.skip(str(error))


def test_every_task_is_in_the_contract():
    apart = {"smollm2"}  # a large network: the contract is kept by a small one, test_language_model.py
    assert {spec.partition(",")[0] for spec in SPECS} | apart == set(TASKS.names())


class TestContract(TaskContract):
    @pytest.fixture(params=SPECS)
    def source(self, request):
        return request.param

    def test_top1_is_a_share(self, task):
        metrics = measure(as_metrics(task.metrics), fresh_model(task), [(task.eval_data[torch.arange(4)], 4)])
        assert 0 <= metrics["top1"] <= 100

    def test_its_example_inputs_fit(self, task):
        model, inputs = fresh_model(task), task.example_inputs
        model(**inputs) if isinstance(inputs, dict) else model(inputs)


def test_digits_learns_in_seconds():
    task = get_task("digits,epochs=2")
    model = fresh_model(task)
    train(task, model)
    assert evaluate(task, model)["top1"] > 80
    sizes = {layer.name: layer.weight.shape[1] for layer in layer_weights(model)}
    assert sizes["0.weight"] == 1


def test_same_seed_same_network():
    task = get_task("digits")
    first, second, other = (fresh_model(task, seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "sentiment", "imagenet_folder"])
def test_missing_data_say_where_they_were_looked_for(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="looked") as caught:
        get_task(f"{name},folder={tmp_path}")
    assert str(tmp_path) in str(caught.value)
    assert "SPARSELAB_DATA" in str(caught.value)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="fashion_mnist"):
        get_task("fashion-mnist")
    with pytest.raises(ValueError, match="depthwise"):
        get_task("fashion_mnist,resnet")


def test_idx_files(tmp_path):
    file = tmp_path / "a.gz"
    pixels = bytes(range(24))
    file.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + pixels))
    assert torch.equal(read_idx(file), torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4))
    file.write_bytes(gzip.compress(b"\0\0\x08\x01" + (5).to_bytes(4, "big") + b"\1\2"))
    with pytest.raises(ValueError, match="cut short"):
        read_idx(file)
    file.write_bytes(gzip.compress(b"hello world"))
    with pytest.raises(ValueError, match="not an IDX"):
        read_idx(file)


def test_images_are_scaled_and_moved():
    pixels = torch.randint(1, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = Images(pixels, torch.arange(5), 0.5, 0.25)
    batch = images[torch.tensor([4, 2])]
    torch.testing.assert_close(batch[0], (pixels[[4, 2]].double() / 255 - 0.5).float() / 0.25)
    assert batch[1].tolist() == [4, 2]
    moved, labels = ShiftAndFlip(2)(images[torch.arange(5)], torch.Generator().manual_seed(1))
    assert labels.tolist() == list(range(5))
    padded = torch.nn.functional.pad(images[torch.arange(5)][0], (2,) * 4)
    for index in range(5):
        crops = [
            crop for top in range(5) for left in range(5) for crop in [padded[index, :, top : top + 8, left : left + 8]]
        ]
        assert any(torch.equal(moved[index], crop) or torch.equal(moved[index], crop.flip(2)) for crop in crops)
