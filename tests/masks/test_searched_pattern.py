"""A calculator in place of a pattern: orders are searched for the pattern that it says."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.masks.one_d import OneD


class FirstOfFour:
    multiples = (1, 4)

    def __call__(self, scores):
        return (torch.arange(scores.shape[-1]) % 4 == 0).expand(scores.shape)


@dataclass(frozen=True)
class AboveMedian:
    multiples = (1, 1)

    def __call__(self, scores):
        return scores > scores.median()


@pytest.mark.parametrize("masks", [OneD(1, 4), FirstOfFour()])
def test_orders_are_those_of_the_pattern_that_a_calculator_is_searched_as(masks):
    torch.manual_seed(0)
    weight = torch.randn(8, 16)
    expected = sl.search_permutation(weight, "1:4", strategy="channel_swap")
    for found in (
        sl.search_permutation(weight, masks, strategy="channel_swap"),
        *sl.search_permutations([weight], masks, strategy="channel_swap"),
    ):
        assert (found.order == expected.order).all()
        assert found.pattern == "1:4"
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    assert sl.permute(model, torch.randn(2, 8), masks, strategy="channel_swap").plan.moves


def test_a_calculator_that_no_order_helps_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"such as '2:4', got 'AboveMedian\(\)': no order of channels is better"):
        sl.search_permutation(torch.randn(8, 16), AboveMedian())
