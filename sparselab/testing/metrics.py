"""What every metric must do."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from sparselab.core.fingerprint import digest
from sparselab.metrics import Metric, measure


class MetricContract:
    """The promises of a metric; a subclass says in the fixture ``metric`` which ones it tests.

    Where it does not judge logits of labelled examples, override ``model`` and ``examples`` as well.
    """

    @pytest.fixture
    def metric(self) -> Metric:
        """What is tested."""
        raise NotImplementedError("override the fixture 'metric': return a metric")

    @pytest.fixture
    def model(self) -> nn.Module:
        """What is judged."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return nn.Linear(8, 6)

    @pytest.fixture
    def examples(self) -> list[Any]:
        """Batches of one example each, which ``torch.cat`` puts together field by field."""
        generator = torch.Generator().manual_seed(1)
        return [
            (torch.randn(1, 8, generator=generator), torch.randint(6, (1,), generator=generator)) for _ in range(12)
        ]

    def test_it_says_what_it_is(self, metric: Metric) -> None:
        """A name that a column can bear, a label, a direction."""
        assert metric.name.isidentifier()
        assert metric.label
        assert metric.higher_is_better in (True, False, None)

    def test_ragged_batches_do_not_matter(self, metric: Metric, model: nn.Module, examples: list[Any]) -> None:
        """One batch of all examples, or several of different sizes: the same number."""
        whole = measure([metric], model, [(_joined(examples), len(examples))])
        parts = [examples[:1], examples[1:6], examples[6:]]
        ragged = measure([metric], model, [(_joined(part), len(part)) for part in parts])
        assert ragged.keys() == whole.keys()
        for name, value in whole.items():
            assert math.isfinite(value)
            assert ragged[name] == pytest.approx(value, rel=1e-6)

    def test_a_measurement_leaves_it_as_it_was(self, metric: Metric, model: nn.Module, examples: list[Any]) -> None:
        """So that a task can hold it and measure again."""
        before = copy.deepcopy(vars(metric))
        first, second = (measure([metric], model, [(_joined(examples), len(examples))]) for _ in range(2))
        assert vars(metric) == before
        assert first == second

    def test_it_travels_and_is_known_again(self, metric: Metric) -> None:
        """To the workers of a sweep, and in the keys of trials."""
        copied = pickle.loads(pickle.dumps(metric))
        assert digest(copied.identity()) == digest(metric.identity())


def _joined(examples: list[Any]) -> Any:
    if isinstance(examples[0], dict):
        return {name: torch.cat([each[name] for each in examples]) for name in examples[0]}
    return tuple(map(torch.cat, zip(*examples)))
