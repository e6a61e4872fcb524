"""``experiment(background=True)``: the same frame, while the caller goes on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import sparselab as sl


def drawn(trial):
    return {"number": float(torch.rand(())), "square": trial.x**2}


def waiting(trial):
    """Says that it has begun, and waits for a file before it ends."""
    folder = Path(trial.folder)
    (folder / f"begun-{trial.x}").touch()
    until = time.monotonic() + 60
    while not (folder / "go").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return {"square": trial.x**2}


class Noting(ThreadPoolExecutor):
    """A pool that knows what it was given."""

    def __init__(self, workers):
        super().__init__(workers)
        self.futures = []

    def submit(self, *args):
        self.futures.append(super().submit(*args))
        return self.futures[-1]


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_is_the_same_frame_and_draws_nothing_here(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sweep = sl.experiment(drawn, x=[1, 2], seed=[0, 1], background=True, progress=False, store=tmp_path / "a.sqlite")
    frame = sweep.wait(60)
    assert torch.equal(torch.rand(3), expected)
    assert not sweep.running
    here = sl.experiment(drawn, x=[1, 2], seed=[0, 1], progress=False)
    assert frame[["x", "seed", "number", "square"]].equals(here[["x", "seed", "number", "square"]])
    assert repr(sweep) == f"<RunningSweep: 4 of 4 trials, done, in {tmp_path / 'a.sqlite'}>"
    assert len(sl.load(sweep.store)) == 4


def test_what_is_done_is_seen_and_stop_keeps_what_is_under_way(tmp_path):
    with Noting(1) as pool:
        sweep = sl.experiment(
            waiting, x=[1, 2, 3, 4], folder=str(tmp_path), background=True, executor=pool, progress=False
        )
        until(lambda: (tmp_path / "begun-1").exists())
        assert len(sweep.frame) == 0
        assert sweep.running
        with pytest.raises(TimeoutError, match="the sweep still runs after 0 s"):
            sweep.wait(0)
        sweep.stop()
        until(lambda: all(future.cancelled() for future in pool.futures[1:]))
        (tmp_path / "go").touch()
        frame = sweep.wait(60)
    assert frame["x"].tolist() == [1]
    assert frame.attrs["interrupted"]
    assert "1 of 4 trials, stopped" in repr(sweep)
    assert not (tmp_path / "begun-2").exists()


def test_errors_are_raised_at_once_or_by_wait():
    with pytest.raises(ValueError, match="unknown option 'stor'"):
        sl.experiment(drawn, x=[1], stor="x", background=True)

    class Broken:
        def submit(self, fn, /, *args):
            raise RuntimeError("no workers today")

    sweep = sl.experiment(drawn, x=[1], background=True, executor=Broken(), progress=False)
    with pytest.raises(RuntimeError, match="no workers today"):
        sweep.wait(60)


def test_the_explorer_takes_it(tmp_path):
    pytest.importorskip("anywidget", reason="needs the extra 'lab'")
    sweep = sl.experiment(drawn, x=[1, 2], background=True, progress=False)
    sweep.wait(60)
    panel = sl.widgets.SweepExplorer(sweep)
    assert len(panel.frame) == 2
