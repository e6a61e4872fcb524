"""Every metric keeps these promises."""

import pytest

from sparselab.metrics import CrossEntropy, Means, Top1, TopK
from sparselab.tasks.task import classification_metrics
from sparselab.testing import MetricContract


class TestContract(MetricContract):
    @pytest.fixture(params=[Top1(), TopK(3), CrossEntropy(), Means(classification_metrics)], ids=lambda m: m.name)
    def metric(self, request):
        return request.param
