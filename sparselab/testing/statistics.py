"""What every kind of statistics must do."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparselab.network.permuting import permute
from sparselab.statistics import collect


class StatisticContract:
    """The promises of a kind of statistics; a subclass says in the fixture ``kind`` which ones it tests.

    Two statistics are compared by the tensors among their fields.
    """

    @pytest.fixture
    def kind(self) -> type[Any]:
        """What is tested: a class."""
        raise NotImplementedError("override the fixture 'kind': return a kind of statistics")

    @pytest.fixture
    def model(self) -> nn.Sequential:
        """Layers of several types, grouped ones among them."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(4, 8, 1),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, groups=2),
                nn.Flatten(),
                nn.Linear(32, 16),
                nn.Linear(16, 4),
            )

    @pytest.fixture
    def inputs(self) -> Tensor:
        """What the model is given."""
        return torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(1))

    def test_every_layer_that_the_data_reach_has_one(
        self, kind: type[Any], model: nn.Sequential, inputs: Tensor
    ) -> None:
        """And the model is as it was."""
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = collect(model, [inputs], [kind])[kind]
        assert list(found) == ["0.weight", "2.weight", "4.weight", "5.weight"]
        assert all(isinstance(each, kind) for each in found.values())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_batches_add_up(self, kind: type[Any], model: nn.Sequential, inputs: Tensor) -> None:
        """However ragged they are."""
        together = collect(model, [inputs], [kind], dtype=torch.float64)[kind]
        apart = collect(model, [inputs[:1], inputs[1:2], inputs[2:]], [kind], dtype=torch.float64)[kind]
        _assert_same(apart, together)

    def test_positions_that_do_not_count_do_not_count(
        self, kind: type[Any], model: nn.Sequential, inputs: Tensor
    ) -> None:
        """Whatever stands there."""
        counts = torch.tensor([True, True, False, True, False, False])
        masked = collect(model, [inputs], [kind], mask=lambda _: counts, dtype=torch.float64)[kind]
        _assert_same(masked, collect(model, [inputs[counts]], [kind], dtype=torch.float64)[kind])

    def test_it_moves_with_the_channels(self, kind: type[Any], model: nn.Sequential, inputs: Tensor) -> None:
        """Moved by a plan, it is what would be collected on the network after that plan."""
        before = collect(model, [inputs], [kind], dtype=torch.float64)[kind]
        moved = copy.deepcopy(model)
        plan = permute(moved, inputs, "2:4", strategy="channel_swap").plan
        assert len(plan)
        _assert_same(plan.moved(before), collect(moved, [inputs], [kind], dtype=torch.float64)[kind])


def _assert_same(one: Any, other: Any) -> None:
    assert list(one) == list(other)
    for name in one:
        for field in dataclasses.fields(one[name]):
            first, second = (getattr(each, field.name) for each in (one[name], other[name]))
            if isinstance(first, Tensor):
                torch.testing.assert_close(first.expand_as(second), second.expand_as(first), rtol=1e-5, atol=1e-6)
            else:
                assert first == second, (name, field.name)
