"""Every strategy, whatever it is, keeps the promises of the contract."""

import pytest

from sparselab.permutation import STRATEGIES
from sparselab.testing import StrategyContract

SPECS = [
    "identity",
    "random,20",
    "channel_swap,0",
    "channel_swap,5",
    "stripe_groups,escapes=3",
    "optimal",
    "assignment",
    "assignment,snake",
    "anneal,2000",
    "annealed_assignment,50",
    "auto",
    "learned,steps=3,rounds=2",
]


class TestContract(StrategyContract):
    @pytest.fixture(params=SPECS)
    def strategy(self, request):
        return request.param


class TestExhaustive(StrategyContract):
    most_channels = 16

    @pytest.fixture
    def strategy(self):
        return "exhaustive"


def test_every_registered_strategy_is_in_the_contract():
    assert {spec.split(",")[0] for spec in [*SPECS, "exhaustive"]} == set(STRATEGIES.names())
