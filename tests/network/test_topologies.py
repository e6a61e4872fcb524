"""Every topology of the zoo: outputs unchanged under random orders of every free axis, and what must move does."""

from __future__ import annotations

import pytest
import torch

from . import zoo_attention  # noqa: F401  (it registers itself)
from .helpers import moved_dims, shuffled
from .zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_random_orders_of_every_axis_change_nothing(name: str) -> None:
    topology = ZOO[name]
    torch.manual_seed(0)
    moved: set[str] = set()
    for seed in (0, 1):
        plan, _, error = shuffled(topology.build(), topology.inputs(), seed)
        assert error < 1e-11
        moved |= {f"{tensor}:{dim}" for tensor, dim in moved_dims(plan)}
    assert set(topology.moves) <= moved
    assert not set(topology.stays) & moved
