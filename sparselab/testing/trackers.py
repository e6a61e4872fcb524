"""What every tracker must do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparselab.trackers import Tracker
from sparselab.training.sparsifier import Sparsifier

MakeTracker = Callable[[nn.Module, Sparsifier], Tracker]


class TrackerContract:
    """The promises of a tracker; a subclass says in the fixture ``make`` how those that it tests are made."""

    @pytest.fixture
    def make(self) -> MakeTracker:
        """What is tested: ``make(model, sparsifier)`` returns a fresh tracker."""
        raise NotImplementedError("override the fixture 'make': return a function (model, sparsifier) -> Tracker")

    def test_it_has_no_effect_on_the_run(self, make: MakeTracker) -> None:
        """A tracked run ends with the same bits as one that is not."""
        assert all(torch.equal(*pair) for pair in zip(_run(make)[0], _run(None)[0]))

    def test_rows_have_their_columns(self, make: MakeTracker) -> None:
        """``step`` and its own."""
        _, tracker = _run(make)
        assert tracker is not None
        assert list(tracker.frame) == ["step", *tracker.columns]
        assert len(tracker.frame)
        assert all(set(row) == {"step", *tracker.columns} for row in tracker.rows)

    def test_it_goes_on_from_its_state(self, make: MakeTracker) -> None:
        """The rows so far, and where it is."""
        _, tracker = _run(make)
        assert tracker is not None
        model, sparsifier = _network()
        sparsifier.compute()
        other = make(model, sparsifier)
        other.load_state_dict(copy.deepcopy(tracker.state_dict()))
        assert other.step == tracker.step
        assert other.frame.equals(tracker.frame)


def _network() -> tuple[nn.Sequential, Sparsifier]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5), nn.Tanh(), nn.Linear(32, 8))
    return model, Sparsifier(model, "2:4", schedule="recompute,2")


def _run(make: MakeTracker | None) -> tuple[list[Tensor], Tracker | None]:
    """The weights after six steps, and the tracker that saw them."""
    model, sparsifier = _network()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    tracker = None if make is None else make(model, sparsifier)
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        inputs, labels = torch.randn(40, 32), torch.randint(8, (40,))
        if tracker is not None:
            tracker.attach(optimizer)
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()], tracker
