import time

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
import sparselab as sl
from sparselab.plots import trials
from sparselab.plots.trials import View
from sparselab.sweeps import experiment
from sparselab.sweeps.store import Store
from sparselab.widgets import exploring as logic


def trial(given):
    if given.seed == 2 and given.pattern == "1:4":
        raise ValueError("no luck")
    return {"top1": 90.0 + given.seed + 5 * (given.pattern == "2:4"), "loss": 1 / (given.seed + 1)}


def sweep(store=None, seeds=(0, 1, 2), pattern=("2:4", "1:4")):
    return experiment(trial, pattern=list(pattern), seed=list(seeds), progress=False, store=store, version=1)


@pytest.fixture(scope="module")
def frame():
    return sweep()


@pytest.fixture
def panel(frame):
    return sl.widgets.SweepExplorer(frame)


def points(axes):
    return sorted((x, y) for line in axes.lines for x, y in line.get_xydata().tolist())


def test_it_starts_with_something_to_see(panel):
    assert panel.view == View("pattern", "top1")  # means are over the seed
    assert panel._status.value.startswith("<b>6</b> of 6 trials, 1 failed.")
    assert panel.problem == ""


def test_columns_that_can_go_where(frame):
    assert logic.height_columns(frame)[:2] == ["top1", "loss"]
    assert logic.name_columns(frame)[:2] == ["pattern", "seed"]
    assert "task" not in logic.name_columns(frame)
    with pytest.raises(ValueError, match="no column of numbers"):
        logic.first_view(pd.DataFrame({"a": ["x", "y"]}))


def test_points_are_where_the_numbers_are(frame):
    (axes,) = trials.trials(frame, View("seed", "top1")).axes
    assert points(axes) == [(0, 90), (0, 95), (1, 91), (1, 96), (2, 97)]
    left, right = trials.trials(frame, View("seed", "top1", "seed", "pattern")).axes
    assert points(left) == [(0, 95), (1, 96), (2, 97)]
    assert points(right) == [(0, 90), (1, 91)]
    assert [panel.get_title(loc="left") for panel in (left, right)] == ["pattern: 2:4", "pattern: 1:4"]


def test_none_is_a_value_like_others():
    frame = experiment(
        lambda trial: {"top1": 90.0 + (trial.permutation == "auto"), "same": 1.0},
        permutation=[None, "auto"],
        seed=[0, 1],
        progress=False,
    )
    assert logic.name_columns(frame)[:2] == ["permutation", "seed"]
    assert "same" not in logic.height_columns(frame)  # constants say nothing
    assert logic.first_view(frame) == View("permutation", "top1")
    figure = trials.trials(frame, View("permutation", "top1", "permutation"))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["none", "auto"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"none", "auto"}


def test_it_starts_from_the_headline():
    def measured(trial):
        metrics = {"first": float(trial.seed), "top1": trial.seed + 90.0}
        return {**metrics, "said": (sl.tasks.Quantity("top1", higher_is_better=True),)}

    frame = experiment(measured, seed=[0, 1, 2], progress=False)
    assert logic.first_view(frame).y == "top1"


def test_means_are_over_seeds_alone(frame):
    def means(view):
        return [c.lines[0].get_xydata()[0].tolist() for c in trials.trials(frame, view).axes[0].containers]

    assert means(View("pattern", "top1")) == [[0.0, 96.0], [1.0, 90.5]]
    assert means(View("pattern", "top1", "seed")) == []  # one trial each
    assert means(View("state", "top1")) == []  # patterns at one place are not one setting
    (bar, *_) = trials.trials(frame, View("pattern", "top1")).axes[0].containers
    half = 4.302652729911275 / 3**0.5  # t of 2 degrees of freedom times the deviation, 1, over the root of 3
    np.testing.assert_allclose(bar.lines[2][0].get_segments()[0][:, 1], [96 - half, 96 + half])


def test_what_cannot_be_drawn_says_so(frame):
    with pytest.raises(ValueError, match="'pattern' has no numbers"):
        trials.trials(frame, View("seed", "pattern"))
    many = pd.DataFrame({"a": range(10), "b": range(10)})
    with pytest.raises(ValueError, match="'b' has 10 values, more than 9 panels"):
        trials.trials(many, View("a", "a", facet="b"))
    with pytest.raises(ValueError, match="the frame has no rows"):
        trials.trials(frame.head(0), View("seed", "top1"))


@pytest.mark.parametrize("place", ["x", "y", "colour", "facet"])
def test_a_column_that_is_not_there_is_named(frame, place):
    with pytest.raises(ValueError, match=f"unknown column for {place} 'sed'; valid: .*seed"):
        sl.widgets.SweepExplorer(frame, **{place: "sed"})


def test_filter(panel):
    panel.query = "seed < 2 and pattern == '2:4'"
    assert panel.frame["seed"].tolist() == [0, 1]
    assert panel._status.value.startswith("<b>2</b> of 6 trials, 0 failed.")
    panel.query = "sed < 2"
    assert panel.problem.startswith("cannot filter by 'sed < 2'")
    for query, why in (
        ("seed", "it does not say yes or no to every row"),
        ("pattern = '2:4'", "= assigns, == compares"),
    ):
        panel.query = query
        assert panel.problem.startswith(f"cannot filter by {query!r}: {why}; write ")
    panel.query = ""
    assert panel.problem == ""
    assert len(panel.frame) == 6


def test_a_filter_that_leaves_nothing_is_no_error(panel):
    panel.query = "seed > 7"
    assert panel.problem == ""
    assert panel._status.value == "<b>0</b> of 6 trials, 0 failed."
    assert panel._picture.shown == {}
    assert panel.portrait() is None
    panel.query = ""
    assert panel._picture.shown["areas"]


def test_it_says_what_bars_are_where_there_are_any(panel):
    said = "Bars: the mean over seeds and its 95% interval, which may go on beyond the picture."
    assert panel._status.value.endswith(said)
    panel.x = "seed"
    assert said not in panel._status.value


def test_a_click_on_a_point_shows_its_trial(panel):
    panel.x = "seed"
    (area,) = [area for area in panel._picture.areas if area.text == "top1 96\nseed 1\npattern 2:4"]
    panel._picture._heard(None, {"choose": area.key})
    assert panel.frame.loc[panel.trial][["pattern", "seed"]].tolist() == ["2:4", 1]
    assert "<th>top1</th><td>96</td>" in panel._details.value
    panel._picture._heard(None, {"choose": area.key})
    assert panel.trial == -1
    assert panel._details.value == ""


def test_state_and_controls_go_together(panel):
    panel._controls["y"].value = "loss"
    assert panel.view.y == "loss"
    panel.facet = "pattern"
    assert panel._controls["facet"].value == "pattern"
    assert len(panel.figure.axes) == 2


def test_a_store_is_read_again_when_it_has_changed(tmp_path):
    store = tmp_path / "sweep.db"
    sweep(store, seeds=(0,))
    panel = sl.widgets.SweepExplorer(store)
    assert len(panel.frame) == 2
    before = logic.changed(store)
    while logic.changed(store) == before:
        sweep(store, seeds=(0, 1, int(time.monotonic_ns() % 10**6)))
    panel._look()
    assert len(panel.frame) >= 5


def test_it_waits_for_the_first_trial(tmp_path):
    store = tmp_path / "sweep.db"
    with Store(store):
        pass
    panel = sl.widgets.SweepExplorer(store)
    assert panel._status.value == "No trial is done yet."
    sweep(store)
    panel.refresh()
    assert panel.view == View("pattern", "top1")
    assert panel._status.value.startswith("<b>6</b> of 6 trials, 1 failed.")


def test_text_is_escaped():
    frame = pd.DataFrame({"top1": [1.0], "note": ["<script>"]})
    assert "&lt;script&gt;" in logic.trial_table(frame, 0)


def test_what_is_asked_for_waits_for_the_first_trial_too(tmp_path):
    store = tmp_path / "sweep.db"
    with Store(store):
        pass
    panel, wrong = (sl.widgets.SweepExplorer(store, x=x, facet="pattern") for x in ("seed", "sed"))
    assert "image/png" not in panel._repr_mimebundle_()
    assert panel.problem == ""
    sweep(store)
    for each in (panel, wrong):
        each.refresh()
    assert panel.view == View("seed", "top1", None, "pattern")
    assert "unknown column for x 'sed'; valid:" in wrong.problem


def test_the_first_view_follows_the_inputs_that_vary_until_another_is_chosen(tmp_path):
    store = tmp_path / "sweep.db"
    sweep(store, seeds=(0, 1), pattern=["2:4"])
    panel = sl.widgets.SweepExplorer(store)
    assert panel.x == "seed"
    sweep(store, seeds=(0, 1), pattern=["1:4"])
    panel.refresh()
    assert panel.x == "pattern"
    panel.x = "seed"
    sweep(store, seeds=(2,))
    panel.refresh()
    assert panel.x == "seed"


def test_an_input_that_is_none_is_told():
    frame = pd.DataFrame({"permutation": [None, "auto"], "note": [None, "x"], "why": ["", "y"], "top1": [1.0, 2.0]})
    frame.attrs["inputs"] = ["permutation"]
    table = logic.trial_table(frame, 0)
    assert "<th>permutation</th><td>none</td>" in table
    assert "note" not in table
    assert "why" not in table


def test_a_column_that_is_asked_for_waits_until_it_varies(tmp_path):
    """The first trials of a sweep may all have been given the same."""
    store = tmp_path / "sweep.db"
    sweep(store, seeds=(0, 1), pattern=["2:4"])
    panel = sl.widgets.SweepExplorer(store, colour="pattern")
    assert panel.problem == ""
    assert panel.colour == ""
    assert "pattern has one value so far" in panel._status.value
    sweep(store, seeds=(0, 1), pattern=["1:4"])
    panel.refresh()
    assert panel.colour == "pattern"
    assert "so far" not in panel._status.value
    with pytest.raises(ValueError, match="unknown column for colour 'patern'"):
        sl.widgets.SweepExplorer(store, colour="patern")
    with pytest.raises(ValueError, match="unknown column for colour 'pattern'; valid:"):
        sl.widgets.SweepExplorer(sl.load(store).query("pattern == '2:4'"), colour="pattern")


def test_a_filter_keeps_the_trial_that_is_chosen_or_drops_it(panel):
    panel.x = "seed"
    (chosen,) = panel.frame.index[(panel.frame["seed"] == 1) & (panel.frame["pattern"] == "2:4")]
    panel.trial = int(chosen)
    assert "<th>top1</th><td>96</td>" in panel._details.value
    panel.query = "seed > 0"
    assert panel.trial == panel._controls["trial"].value == chosen
    assert "<th>top1</th><td>96</td>" in panel._details.value
    (area,) = [area for area in panel._picture.areas if area.text.startswith("top1 96")]
    assert area.key == panel._picture.shown["chosen"] == chosen
    panel.query = "seed > 1"
    assert panel.trial == panel._controls["trial"].value == -1
    assert panel._details.value == ""
    panel.query = ""
    assert panel.trial == -1


def test_trials_of_frames_put_together_are_told_apart(frame):
    panel = sl.widgets.SweepExplorer(pd.concat([frame, frame.assign(top1=frame["top1"] - 50)]), x="seed")
    (area,) = [area for area in panel._picture.areas if area.text.startswith("top1 46\n")]
    panel._picture._heard(None, {"choose": area.key})
    assert panel._details.value.count("<th>top1</th>") == 1
    assert "<th>top1</th><td>46</td>" in panel._details.value


def test_a_trial_that_failed_can_be_chosen_for_its_reason(panel):
    labels = dict(panel._controls["trial"].options)
    (label,) = [label for label in labels if "failed" in label]
    assert label.endswith("failed, pattern 1:4, seed 2")
    panel.trial = labels[label]
    assert "no luck" in panel._details.value


def test_the_trial_chosen_stays_so_while_others_are_put_before_it(tmp_path):
    store = tmp_path / "sweep.sqlite"
    sweep(store, seeds=(1,), pattern=["2:4"])
    panel = sl.widgets.SweepExplorer(store)
    panel.trial = 0
    panel._all = panel._all.assign(key="other")  # what was first has gone
    panel.refresh()
    assert panel.trial == -1
    panel.trial = 0
    chosen, load = panel._all.loc[0, "key"], sl.load
    sweep(store, seeds=(0, 1), pattern=["1:4"])
    before = load(store)
    assert (before["key"] == chosen).any()
    panel.refresh()
    assert panel._all.loc[panel.trial, "key"] == chosen


def test_a_filter_finds_none_as_it_is_written():
    frame = pd.DataFrame({"permutation": [None, "auto", "none"], "top1": [1.0, 2.0, 3.0]})
    for query, kept in (
        ("permutation == 'none'", [0, 2]),
        ('permutation != "none"', [1]),
        ("permutation.isna()", [0]),
        ("permutation == 'none' and top1 < 2", [0]),
        ("permutation == None", [0, 2]),
        ("permutation != @None", [1]),
    ):
        assert logic.filtered(frame, query).index.tolist() == kept, query


def test_the_example_of_a_filter_asks_for_none_where_it_can():
    frame = pd.DataFrame({"pattern": ["1:4", "2:4"], "permutation": [None, "auto"], "top1": [1.0, 2.0]})
    assert logic.example(frame) == "permutation == 'none' and top1 < 2"


def test_a_trial_that_failed_tells_its_traceback(frame):
    failed = frame.reset_index(drop=True).query("state == 'failed'").index[0]
    table = logic.trial_table(frame.reset_index(drop=True), failed)
    assert "<summary>traceback</summary>" in table
    assert "raise ValueError" in table
    assert "<summary>" not in logic.trial_table(frame.reset_index(drop=True), 0)


def test_a_filter_that_cannot_be_read_says_so_in_our_words(panel):
    panel.query = "seed <"
    assert panel.problem == (
        "cannot filter by 'seed <': it is no expression, in which == compares, and words have quotes; "
        "write e.g. pattern == '2:4' and seed < 2"
    )
    assert panel._controls["query"].placeholder == "pattern == '2:4' and seed < 2"
    assert "numexpr" not in panel.problem


def test_measured_numbers_are_told_apart_by_a_scale():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"seed": range(8), "top1": rng.random(8), "cost": [*rng.random(7), np.nan], "lr": [0.1, 0.2] * 4}
    )
    frame.attrs["inputs"] = ["seed", "lr"]
    assert logic.name_columns(frame) == ["seed", "lr"]
    assert logic.colour_columns(frame) == ["seed", "lr", "top1", "cost"]
    figure = trials.trials(frame, View("seed", "top1", "cost"))
    drawn, scale = figure.axes
    assert not figure.legends
    assert scale.get_title(loc="right") == "cost"
    assert scale.get_ylim() == pytest.approx((frame["cost"].min(), frame["cost"].max()))
    (dots,) = drawn.collections
    assert len(np.unique(dots.get_facecolors(), axis=0)) == 8
    assert dots.get_facecolors()[7][:3] == pytest.approx([0xBB / 255] * 3)  # no number, no colour
    assert len(trials.trials(frame, View("seed", "top1", "lr")).legends) == 1


def test_long_intervals_do_not_make_the_points_small():
    frame = pd.DataFrame({"seed": [0, 1, 0, 1], "pattern": ["a", "a", "b", "b"], "top1": [91.0, 95.0, 93.0, 97.0]})
    frame.attrs["inputs"] = ["seed", "pattern"]
    (axes,) = trials.trials(frame, View("pattern", "top1")).axes
    assert axes.containers[0].lines[2][0].get_segments()[0][1, 1] > 115
    assert axes.get_ylim() == pytest.approx((88, 100))


def test_what_rounding_leaves_of_nothing_is_nothing():
    frame = pd.DataFrame({"change": [-1.9e-13, 0.0, 0.30000000000000004], "top1": [1.0, 2.0, 3.0]})
    assert "<th>change</th><td>0</td>" in logic.trial_table(frame, 0)
    assert trials.texts(frame["change"]).tolist() == ["0", "0", "0.3"]


def test_numbers_that_are_tried_by_factors_lie_by_their_logarithm():
    frame = pd.DataFrame({"lr": [1e-4, 1e-3, 1e-2], "top1": [1.0, 2.0, 3.0]})
    assert trials.trials(frame, View("lr", "top1")).axes[0].get_xscale() == "log"
    assert trials.trials(frame, View("top1", "lr")).axes[0].get_xscale() == "linear"
    assert trials.trials(frame.assign(lr=[0.0, 1e-3, 1.0]), View("lr", "top1")).axes[0].get_xscale() == "linear"


def test_how_many_trials_are_planned_is_said(tmp_path):
    store = tmp_path / "sweep.sqlite"
    sweep(store)
    panel = sl.widgets.SweepExplorer(store)
    assert panel._status.value.startswith("<b>6</b> of 6 trials, 1 failed.")
    panel._all = panel._all.iloc[:4]
    panel._redraw()
    assert panel._status.value.startswith("<b>4</b> of 4 trials done so far, of 6, ")


def test_trials_that_all_failed_are_no_error(panel):
    panel.query = "state == 'failed'"
    assert panel.problem == ""
    assert panel._status.value == "<b>1</b> of 6 trials, 1 failed. None of them has top1, and a place."
    assert panel._picture.shown == {}
    assert len(panel._controls["trial"].options) == 2
