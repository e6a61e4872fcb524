"""``mask_1d`` on torch's memory, run on a CPU that plays GPU, agrees with the mask calculators."""

import numpy as np
import pytest
import torch

from sparselab.masks import create_mask
from sparselab.ops.cuda import masks

from . import device_on_cpu
from .device_on_cpu import CpuDevice

pytestmark = pytest.mark.skipif(not device_on_cpu.available, reason="needs g++")


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 5), (16, 32)])
@pytest.mark.parametrize("reverse", [False, True])
def test_agrees_with_the_calculator(n, m, reverse):
    rng = np.random.default_rng(0)
    for values in (
        rng.standard_normal((37, m * 3)),
        rng.integers(-2, 3, (300, m)),
        1e-45 * rng.integers(-9, 9, (30, m)),
    ):
        scores = torch.from_numpy(values.astype(np.float32))
        assert masks.takes(scores, m)
        found = masks.top_n_of_m(scores, n, m, CpuDevice(reverse))
        assert found.dtype == torch.bool
        assert torch.equal(found, create_mask(scores, f"{n}:{m}"))


def test_any_strides_and_any_start():
    whole = torch.randn(9, 13, generator=torch.Generator().manual_seed(0))
    for scores in (whole[:, :12], whole.flatten()[1:101].view(5, 20), torch.randn(8, 6).T):
        before = scores.clone()
        assert torch.equal(masks.top_n_of_m(scores, 2, 4, CpuDevice()), create_mask(scores.contiguous(), "2:4"))
        assert torch.equal(scores, before)


def test_what_the_kernel_leaves_to_torch():
    assert not masks.takes(torch.zeros(4, 8, dtype=torch.float16), 4)
    assert not masks.takes(torch.zeros(4, 64), 64)
    assert not masks.takes(torch.zeros(0, 4), 4)
