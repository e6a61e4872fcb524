"""What every saliency must do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparselab.core.layers import layer_weights
from sparselab.network.permuting import permute
from sparselab.saliency import Saliency, check_name, from_statistics, needs, scores
from sparselab.statistics import collect


class SaliencyContract:
    """The promises of a saliency; a subclass says in the fixture ``saliency`` which ones it tests."""

    @pytest.fixture
    def saliency(self) -> Saliency:
        """What is tested: a name with options, or a callable from a weight to scores."""
        raise NotImplementedError("override the fixture 'saliency': return a saliency or its name")

    @pytest.fixture
    def model(self) -> nn.Sequential:
        """A linear layer, and a convolution whose channels can move."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4))

    @pytest.fixture
    def inputs(self) -> Tensor:
        """What the model is given."""
        return torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(1))

    def test_scores_are_numbers_that_a_mask_can_rank(
        self, saliency: Saliency, model: nn.Sequential, inputs: Tensor
    ) -> None:
        """Of the weight's shape, finite, not negative; the weight stays as it is, and so does the answer."""
        for name, criterion in _by_weight(saliency, model, inputs).items():
            weight = model.get_parameter(name)
            before = weight.detach().clone()
            found, again = scores(weight, criterion), scores(weight, criterion)
            assert found.shape == weight.shape
            assert found.isfinite().all()
            assert not found.requires_grad
            assert (found >= 0).all()
            assert torch.equal(found, again)
            assert torch.equal(weight, before)

    def test_what_is_nothing_is_worth_nothing_more_than_anything_else(
        self, saliency: Saliency, model: nn.Sequential, inputs: Tensor
    ) -> None:
        """A weight of zero has the lowest score of its layer."""
        for name, criterion in _by_weight(saliency, model, inputs).items():
            weight = model.get_parameter(name).detach().clone()
            weight[0, 0] = 0
            found = scores(weight, criterion)
            assert float(found[0, 0].max()) == float(found.min())

    def test_scores_move_with_the_channels(self, saliency: Saliency, model: nn.Sequential, inputs: Tensor) -> None:
        """After a permutation of the network each weight has the score that it had before."""
        before = _by_weight(saliency, model, inputs)
        moved = copy.deepcopy(model)
        plan = permute(moved, inputs, "2:4", strategy="channel_swap").plan
        assert len(plan)
        after = plan.moved(before)
        expected = plan.moved({name: scores(model.get_parameter(name), each) for name, each in before.items()})
        for name, criterion in after.items():
            found = scores(moved.get_parameter(name), criterion)
            assert isinstance(expected[name], Tensor)
            torch.testing.assert_close(found, expected[name])

    def test_its_name_is_known(self, saliency: Saliency) -> None:
        """Where it is given by name."""
        if isinstance(saliency, str):
            check_name(saliency)


def _by_weight(saliency: Saliency, model: nn.Module, inputs: Tensor) -> dict[str, Saliency]:
    if isinstance(saliency, str) and (kind := needs(saliency)) is not None:
        return dict(from_statistics(saliency, collect(model, [inputs], [kind])))
    return {layer.name: saliency for layer in layer_weights(model)}
