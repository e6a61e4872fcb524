"""Every tracker keeps these promises."""

import pytest
import torch

from sparselab.testing import TrackerContract
from sparselab.trackers import (
    AccuracyTracker,
    MagnitudeTracker,
    MaskChurnTracker,
    PermutationTracker,
    ThroughputTracker,
)

BATCHES = [(torch.randn(10, 32, generator=torch.Generator().manual_seed(5)), torch.arange(10) % 8)]

TRACKERS = {
    "accuracy": lambda model, _: AccuracyTracker(model, BATCHES, every=2),
    "magnitude": lambda _, sparsifier: MagnitudeTracker(sparsifier, every=2),
    "churn": lambda _, sparsifier: MaskChurnTracker(sparsifier),
    "permutation": lambda _, sparsifier: PermutationTracker(sparsifier, every=3),
    "throughput": lambda *_: ThroughputTracker(every=2),
}


class TestContract(TrackerContract):
    @pytest.fixture(params=TRACKERS)
    def make(self, request):
        return TRACKERS[request.param]
