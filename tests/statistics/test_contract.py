"""Every kind of statistics keeps these promises."""

import pytest

from sparselab.statistics import InputNorms, SecondMoments
from sparselab.testing import StatisticContract


class TestContract(StatisticContract):
    @pytest.fixture(params=[InputNorms, SecondMoments])
    def kind(self, request):
        return request.param
