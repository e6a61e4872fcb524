"""Every saliency keeps these promises."""

import pytest
import torch

from sparselab.saliency import SALIENCIES
from sparselab.testing import SaliencyContract

SPECS = ["magnitude", "wanda", "ria", "ria,power=0.3"]


class TestContract(SaliencyContract):
    @pytest.fixture(params=[*SPECS, torch.square], ids=[*SPECS, "a function"])
    def saliency(self, request):
        return request.param


def test_every_saliency_is_in_the_contract():
    assert {spec.partition(",")[0] for spec in SPECS} == set(SALIENCIES.names())
