"""What every test starts from."""

import os

import pytest

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # processes that each use all cores wait for one another: half the speed on two cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

import hypothesis  # noqa: E402
import torch  # noqa: E402 - reads OMP_NUM_THREADS when it is loaded

# How long an example takes says how busy the machine is, not whether it holds.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def seeded():
    """The same random weights in every run: a test that fails does so again."""
    torch.manual_seed(0)
