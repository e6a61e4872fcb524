import copy

import torch
from torch import nn

from sparselab.network.control import random_plan


def test_a_random_order_of_everything_leaves_the_function_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    model = model.double().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    before = model(x)
    moved = copy.deepcopy(model)
    random_plan(model, x, seed=1).apply(moved)
    assert not torch.equal(moved[0].weight, model[0].weight)
    torch.testing.assert_close(moved(x), before, rtol=1e-12, atol=1e-12)
    again = copy.deepcopy(model)
    random_plan(model, x, seed=1).apply(again)
    assert all(torch.equal(a, b) for a, b in zip(moved.state_dict().values(), again.state_dict().values(), strict=True))
