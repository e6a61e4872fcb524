"""A pruner in another order: what it makes of the permuted weight, put back."""

import numpy as np
import pytest
import torch

from sparselab.core.channel_order import ChannelOrder
from sparselab.masks import calculator
from sparselab.pruners import BySaliency, get_pruner
from sparselab.pruners.in_order import InOrder
from sparselab.statistics import InputNorms, SecondMoments


def statistic_of(kind, x, shape):
    if kind is None:
        return None
    return (
        InputNorms(x.double().norm(dim=0)[None]) if kind is InputNorms else SecondMoments((x.T @ x)[None], (64,), shape)
    )


@pytest.mark.parametrize("name", ["magnitude", "wanda", "ria", "sparsegpt", "admm", "swaps"])
def test_as_if_the_model_had_been_permuted(name):
    """The inputs of the layer and its columns permuted together, pruned, and the columns put back."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(6, 16, generator=generator), torch.randn(64, 16, generator=generator)
    x = x @ torch.randn(16, 16, generator=generator)  # correlated
    order = np.random.default_rng(0).permutation(16)
    pruner, index = get_pruner(name), torch.from_numpy(order)
    found = InOrder(pruner, ChannelOrder(order, 1))(weight, calculator("2:4"), statistic_of(pruner.needs, x, (6, 16)))
    expected = pruner(weight[:, index], calculator("2:4"), statistic_of(pruner.needs, x[:, index], (6, 16)))
    torch.testing.assert_close(found.weight[:, index], expected.weight)
    assert torch.equal(found.mask[:, index], expected.mask)
    assert (found.mask[:, index].reshape(6, 4, 4).sum(-1) == 2).all()


def test_scores_and_other_layouts():
    """Scores of the weight move with it; convolutions, and input channels that come first."""
    generator = torch.Generator().manual_seed(0)
    for shape, dim in (((4, 8, 3, 3), 1), ((8, 4, 3, 3), 0), ((2, 4, 8), -1), ((2, 8, 4), -2)):
        weight, scores = (torch.rand(shape, generator=generator) for _ in range(2))
        order = np.random.default_rng(1).permutation(8)
        own = ChannelOrder(order, dim % len(shape))
        mask = InOrder(BySaliency(scores), own)(weight, calculator("2:4"), channel_dim=dim).mask
        groups = scores.movedim(dim, -1)[..., torch.from_numpy(order)].reshape(-1, 4)
        kept = mask.movedim(dim, -1)[..., torch.from_numpy(order)].reshape(-1, 4)
        expected = groups.argsort(1, descending=True).argsort(1) < 2
        assert torch.equal(kept, expected)
