"""What every test starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same random weights in every run: a test that fails does so again."""
    torch.manual_seed(0)
