"""What is kept of a block between passes: every output is the one that would have been computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparselab.layerwise.settled import Settled


class Counting(nn.Linear):
    """A layer that knows how often it computed."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Counting(8, 8), Counting(8, 8)

    def forward(self, x):
        return self.second(self.first(x).relu_())  # in place: what was kept must not change with it


class Block(nn.Module):
    """A part, two layers after it of which one is called twice, and changes in place."""

    def __init__(self):
        super().__init__()
        self.part, self.twice, self.last = Part(), Counting(8, 8), Counting(8, 8)

    def forward(self, x):
        x = self.part(x).add_(x)
        return self.last(self.twice(self.twice(x)).mul_(2)).add_(1)


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block().eval()


def outputs(block, settled, batches, pending):
    found = []
    for number, batch in enumerate(batches):
        with torch.no_grad(), settled.running(number, pending):
            found.append(block(batch.clone()))
    return found


def computed(block, batches):
    with torch.no_grad():
        return [block(batch.clone()) for batch in batches]


def calls(block):
    return {name: module.calls for name, module in block.named_modules() if isinstance(module, Counting)}


@pytest.mark.parametrize("room", [0, 4 * 8 * 5, 2**20])  # nothing, a little and all is kept
def test_layers_pruned_one_after_the_other_give_what_they_would(block, room):
    batches = [torch.randn(5, 8) for _ in range(3)]
    settled = Settled.of(block)
    settled.room = room
    layers = [block.part.first, block.part.second, block.twice, block.last]
    for number, layer in enumerate(layers):
        for found, expected in zip(
            outputs(block, settled, batches, layers[number:]), computed(block, batches), strict=True
        ):
            assert torch.equal(found, expected)
        with torch.no_grad():
            layer.weight *= torch.rand_like(layer.weight) > 0.5
    for found, expected in zip(outputs(block, settled, batches, ()), computed(block, batches), strict=True):
        assert torch.equal(found, expected)
    kept = sum(each.output.numel() * each.output.itemsize for each in settled.known.values())
    assert settled.room == room - kept >= 0


def test_what_is_settled_is_not_computed_again(block):
    batch = [torch.randn(5, 8)]
    settled = Settled.of(block)
    outputs(block, settled, batch, [block.twice, block.last])
    assert not settled.known  # the block changes it in place, so it is kept as a copy from now on
    outputs(block, settled, batch, [block.twice, block.last])
    assert set(settled.known) == {(0, block.part)}  # it stands for the layers inside
    before = calls(block)
    outputs(block, settled, batch, [block.last])
    outputs(block, settled, batch, [block.last])
    after = calls(block)
    assert {name: after[name] - before[name] for name in after} == {
        "part.first": 0,
        "part.second": 0,
        "twice": 4,
        "last": 2,  # called twice: one of its outputs does not stand for the other
    }


def test_nothing_is_kept_behind_a_pending_layer_nor_of_another_batch(block):
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    settled = Settled.of(block)
    outputs(block, settled, [first], [block.part.first])
    assert not settled.known
    found = outputs(block, settled, [first, second], [block.last])
    assert not torch.equal(found[0], found[1])
    assert "forward" not in vars(block.part)  # the modules are as they were


def test_linear_layers_of_which_only_the_inputs_matter_do_not_compute(block):
    plain, given = nn.Linear(8, 8), []
    block.twice = plain
    plain.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    batch = torch.randn(5, 8)
    settled = Settled.of(block)
    with torch.no_grad(), settled.running(0, [plain, block.last], [plain]):
        block(batch.clone())
    assert torch.equal(given[0], block.part(batch.clone()).add_(batch))
    assert torch.equal(given[1], torch.zeros(5, 8))  # what it returned the first time
    assert not any(module in (plain, block.last) for _, module in settled.known)
