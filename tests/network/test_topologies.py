"""Every topology of the zoo: outputs unchanged under random orders of every free axis, and what must move does."""

from __future__ import annotations

import pytest
import torch

from sparselab.network.analysis import analyse
from sparselab.network.free_axes import free_axes

from . import zoo_attention, zoo_routing  # noqa: F401  (they register themselves)
from .helpers import moved_dims, shuffles
from .zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_random_orders_of_every_axis_change_nothing(name: str) -> None:
    topology = ZOO[name]
    torch.manual_seed(0)
    moved: set[str] = set()
    for plan, _, error in shuffles(topology.build(), topology.inputs(), (0, 1)):
        assert error < 1e-11
        moved |= {f"{tensor}:{dim}" for tensor, dim in moved_dims(plan)}
    assert set(topology.moves) <= moved
    assert not set(topology.stays) & moved


def contexts_of_the_width(name: str) -> set[int]:
    """How many orders the widths of heads, 6 units each, may take."""
    topology = ZOO[name]
    axes = free_axes(analyse(topology.build().double(), topology.inputs().double()))
    return {axis.contexts for axis in axes if axis.size == 6}


def test_each_head_has_an_order_of_its_own_unless_heads_are_mixed() -> None:
    assert contexts_of_the_width("HandWrittenAttention") == {4}
    for name in (
        "SoftmaxOverHeads",
        "SharedHeadProjection",
    ):  # of q with k there is one for each head, of v there is not
        assert contexts_of_the_width(name) == {1, 4}


def test_experts_have_orders_of_their_own_where_every_token_tells_its_expert() -> None:
    contexts = {
        name: set[int]() for name in ("GroupedExperts", "ExpertsWithABias", "ExpertsGroupedAnew", "BatchedExperts")
    }
    for name, found in contexts.items():
        topology = ZOO[name]
        axes = free_axes(analyse(topology.build().double(), topology.inputs().double()))
        found |= {axis.contexts for axis in axes if axis.size == 8}
    assert contexts == {
        "GroupedExperts": {4},
        "ExpertsWithABias": {1},
        "ExpertsGroupedAnew": {1},
        "BatchedExperts": {1},
    }


def test_pairs_that_are_turned_together_stay() -> None:
    topology = ZOO["RotaryPairs"]
    for plan, _, _ in shuffles(topology.build(), topology.inputs(), range(3)):
        for move in plan.moves:
            if move.names[0] == "q.weight" and move.first == 0:
                within = move.order.reshape(-1, 6) % 6  # heads may change places, what is inside may not
                assert (within == range(6)).all()
