"""The contract of everything that can be added, as test suites: for sparselab's own tests and for those of plug-ins.

Subclass a suite in a test module, say in a fixture what is to be tested, and run pytest:

    class TestMyMasks(MaskCalculatorContract):
        @pytest.fixture(params=[MyMasks(2, 4), MyMasks(1, 8)])
        def calculator(self, request):
            return request.param
"""

from __future__ import annotations

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError("the contract suites need pytest: pip install pytest") from None

_SUITES = ("masks", "metrics", "pruners", "saliencies", "schedules", "statistics", "strategies", "tasks", "trackers")
pytest.register_assert_rewrite(*(f"sparselab.testing.{suite}" for suite in _SUITES))

from sparselab.testing.masks import MaskCalculatorContract  # noqa: E402
from sparselab.testing.metrics import MetricContract  # noqa: E402
from sparselab.testing.pruners import PrunerContract  # noqa: E402
from sparselab.testing.saliencies import SaliencyContract  # noqa: E402
from sparselab.testing.schedules import ScheduleContract, ScheduledRun  # noqa: E402
from sparselab.testing.statistics import StatisticContract  # noqa: E402
from sparselab.testing.strategies import StrategyContract  # noqa: E402
from sparselab.testing.tasks import TaskContract  # noqa: E402
from sparselab.testing.trackers import TrackerContract  # noqa: E402

__all__ = [
    "MaskCalculatorContract",
    "MetricContract",
    "PrunerContract",
    "SaliencyContract",
    "ScheduleContract",
    "ScheduledRun",
    "StatisticContract",
    "StrategyContract",
    "TaskContract",
    "TrackerContract",
]
