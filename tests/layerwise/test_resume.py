"""Interrupted runs go on at the next block and end with the same weights; stores of other runs are refused."""

import copy
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import sparselab as sl

from . import killed


@pytest.fixture
def uninterrupted():
    killed.STOP.clear()
    model = killed.network()
    return model, killed.run(model)


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def interrupt():
    raise KeyboardInterrupt


def test_killed_and_started_again(tmp_path, uninterrupted):
    store = tmp_path / "store"
    done = subprocess.run([sys.executable, killed.__file__, store, "2.down.weight"], cwd=Path(sl.__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    model = killed.network()
    report = killed.run(model, store)
    assert report.resumed_at == 2
    assert same(model, uninterrupted[0])
    pd.testing.assert_frame_equal(report.frame.drop(columns="seconds"), uninterrupted[1].frame.drop(columns="seconds"))
    again = killed.network()
    assert killed.run(again, store).resumed_at == 4
    assert same(again, model)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("permutation", [None, "channel_swap"])
def test_interrupted_and_called_again(tmp_path, sequential, permutation):
    options = {"sequential": sequential, "permutation": permutation}
    killed.STOP.clear()
    expected = killed.network()
    killed.run(expected, **options)
    killed.stop("1.down.weight", interrupt)
    if permutation:  # weights have moved by then: whatever their sum is in another order
        killed.STOP[0] = pytest.approx(killed.STOP[0], rel=1e-5)
    model, before = killed.network(), killed.network()
    with pytest.raises(KeyboardInterrupt):
        killed.run(model, tmp_path, **options)
    killed.STOP.clear()
    if not permutation:
        assert same(model[1], before[1])
        assert float((model[0].up.weight == 0).float().mean()) == 0.5
    report = killed.run(model, tmp_path, **options)
    assert report.resumed_at == 1
    assert same(model, expected)
    fresh = killed.network()
    killed.run(fresh, tmp_path, **options)
    assert same(fresh, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "1:4"}, "its pattern is '2:4', here it is '1:4'"),
        ({"pruner": "ria"}, "its pruner"),
        ({"sequential": False}, "its sequential is True, here it is False"),
        ({"exclude": "0.*"}, "its weights"),
        ({"blocks": None}, "its blocks"),
        ({"calibration": [torch.ones(4, 8)]}, "its (batches|calibration)"),
    ],
)
def test_the_store_of_another_run_is_refused(tmp_path, options, message):
    killed.STOP.clear()
    killed.run(killed.network(), tmp_path)
    model = killed.network()
    before = copy.deepcopy(model)
    options = {"pruner": killed.Stopping(), "calibration": killed.batches(), **options}
    with pytest.raises(ValueError, match=f"holds another run: {message}"):
        sl.prune(model, options.pop("calibration"), store=tmp_path, progress=False, **options)
    assert same(model, before)


def test_another_model_and_another_folder_are_refused(tmp_path):
    killed.STOP.clear()
    killed.run(killed.network(), tmp_path / "store")
    model = killed.network()
    for place in (lambda model: model[3].up.weight, lambda model: model[1].down.bias):  # that was pruned, that was not
        killed.run(model, tmp_path / "store")
        nn.init.ones_(place(model))
        before = copy.deepcopy(model)
        with pytest.raises(ValueError, match="is of another model"):
            killed.run(model, tmp_path / "store")
        assert same(model, before)
        model = killed.network()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="files that are not ours"):
        killed.run(killed.network(), tmp_path / "other")
