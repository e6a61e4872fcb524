import time

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
import sparselab as sl
from sparselab.tasks import Recipe, Task
from sparselab.widgets import recomputing as logic


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 16, generator=generator), torch.randint(4, (64,), generator=generator))
    return Task(
        "tiny",
        lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)),
        data,
        data,
        recipe=Recipe("sgd,0.1", batch_size=16),
    )


@pytest.fixture
def panel(task):
    return sl.widgets.MaskRecomputation(task, schedules=["one_shot", "recompute,every=2"], steps=10, dense=task.model())


def test_run_wait_and_read(panel):
    panel.run()
    panel.wait(120)
    assert panel.problem == ""
    assert panel._status.value.startswith("Done: run 2 of 2, step 10 of 10")
    frame = panel.frame
    assert list(dict.fromkeys(frame["run"])) == ["one_shot", "recompute,every=2"]
    flips = frame[frame["quantity"] == "flipped_percent"]
    assert set(flips["run"]) == {"recompute,every=2"}
    assert flips["step"].tolist() == [2, 4, 6, 8, 10]
    for quantity in ("retained_percent", "fresh_percent", "top1"):
        values = frame.loc[frame["quantity"] == quantity, "value"]
        assert values.between(0, 100, inclusive="left").all(), quantity
    assert len(panel.figure.axes) == 4
    assert {area.text.split("\n")[0] for area in panel._picture.areas} == {"one_shot", "recompute,every=2"}


def test_the_dense_network_stays_as_it_is(panel):
    before = [p.clone() for p in panel._dense.parameters()]
    panel.run()
    panel.wait(120)
    assert all(map(torch.equal, before, panel._dense.parameters()))


def test_stop_keeps_what_was_seen(panel):
    panel.steps = 100_000
    panel.run()
    deadline = time.monotonic() + 60
    while not (panel._runs and panel._runs[0].steps > 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    panel.stop()
    panel.wait(60)
    assert panel._status.value.startswith("Stopped: run 1 of 2")
    assert panel._runs[0].steps < 100_000
    assert not panel._run.disabled


def test_fields_and_state_go_together(panel):
    panel._fields[2].value = " decay,0,5 "
    assert panel.schedules == ("one_shot", "recompute,every=2", "decay,0,5")
    panel.schedules = ("one_shot",)
    assert [field.value for field in panel._fields] == ["one_shot", "", ""]


@pytest.mark.parametrize(
    ("schedules", "problem"),
    [
        ((), "choose one to four schedules, got 0"),
        (("one_shot", "one_shot"), "two of the schedules are the same"),
        (("recompute,every=0",), "every must be at least 1"),
        (("sometimes",), "unknown schedule 'sometimes'"),
    ],
)
def test_errors_are_shown_in_words(panel, schedules, problem):
    panel.schedules = schedules
    panel._run.click()
    assert problem in panel.problem
    assert not panel.running


def test_a_misspelt_schedule_is_refused_at_once(task):
    with pytest.raises(ValueError, match=r"unknown schedule 'recompte'; valid: .* Did you mean 'recompute'"):
        sl.widgets.MaskRecomputation(task, schedules=["recompte,5"])


def test_no_rows_yet(task):
    assert list(logic.curves([logic.Run("one_shot")], task).columns) == ["run", "step", "quantity", "value"]


def test_it_opens_without_a_complaint_and_without_a_picture(panel):
    bundle = panel._repr_mimebundle_()
    assert panel.problem == ""
    assert "image/png" not in bundle
    panel.run()
    panel.wait(120)
    assert "image/png" in panel._repr_mimebundle_()


def test_done_is_said_when_all_is_drawn(panel, monkeypatch):
    said = []
    show = panel._picture.show
    monkeypatch.setattr(
        panel._picture, "show", lambda *args, **keys: (said.append(panel._status.value), show(*args, **keys))
    )
    panel.run()
    panel.wait(120)
    assert panel._status.value.startswith("Done")
    assert said
    assert not any(text.startswith("Done") for text in said)


def test_runs_are_told_by_one_reference_and_beside_a_run_without_masks():
    panel = sl.widgets.MaskRecomputation("digits", "1:4", schedules=["none", "one_shot", "gradual,0,8"], steps=12)
    panel.run()
    panel.wait(300)
    assert panel.problem == ""
    assert panel._status.value.startswith("Done: run 3 of 3, step 12 of 12")
    frame = panel.frame
    last = frame[frame["quantity"] == "retained_percent"].groupby("run")["value"].last()
    assert set(last.index) == {"one_shot", "gradual,0,8"}
    assert (last < 60).all()  # of the dense weights: three quarters are gone, whatever is stored of them
    assert set(frame.loc[frame["run"] == "none", "quantity"]) >= {"top1", "loss"}
    top1 = frame[frame["quantity"] == "top1"].groupby("run")["value"].first()
    assert top1["none"] > top1["one_shot"]


def test_what_no_schedule_is_is_said_as_it_is_typed():
    panel = sl.widgets.MaskRecomputation("digits", schedules=["one_shot", "recompute,every=5"])
    panel._fields[0].value = "recompute,evry=5"
    assert "evry" in panel.problem
    panel._fields[0].value = "none"
    assert panel.problem == ""


def test_what_is_chosen_after_a_run_is_not_said_of_it():
    panel = sl.widgets.MaskRecomputation("digits", "1:4", schedules=["one_shot", "recompute,every=5"], steps=6)
    panel.run()
    panel.wait(300)
    panel.pattern, panel.steps, panel.schedules = "2:4", 99, ("one_shot",)
    panel._job._refresh()
    assert panel._status.value.startswith("Done: run 2 of 2, step 6 of 6, ")
    assert " s at 1:4. " in panel._status.value
