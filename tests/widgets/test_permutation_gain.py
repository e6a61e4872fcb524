import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
import sparselab as sl
from sparselab.permutation import warm_up
from sparselab.plots import matrices, strips
from sparselab.widgets import searches as logic


@pytest.fixture
def matrix():
    return np.random.default_rng(0).random((24, 32), np.float32)


@pytest.fixture
def panel(matrix):
    return sl.widgets.PermutationGain(matrix, strategies=["channel_swap", "random"], seconds=0.3)


def retained(matrix, order):
    groups = np.sort(np.abs(matrix[:, order]).astype(float).reshape(len(matrix), -1, 4), axis=2)
    return groups[:, :, 2:].sum()


def test_run_wait_and_read(panel, matrix):
    panel.run()
    panel.wait(120)
    assert panel.problem == ""
    assert [result.strategy for result in panel.results] == ["channel_swap", "random"]
    row = panel.frame.set_index("strategy").loc["channel_swap"]
    order = panel.results[0].order
    assert row["lost_percent"] == pytest.approx(100 * (1 - retained(matrix, np.arange(32)) / matrix.sum(dtype=float)))
    assert row["permuted_lost_percent"] == pytest.approx(100 * (1 - retained(matrix, order) / matrix.sum(dtype=float)))
    assert panel.best is max(panel.results, key=lambda result: result.retained)
    assert f"efficacy <b>{panel.best.efficacy:.1f}</b>" in panel._best_line.value
    assert panel._status.value.startswith("Done, 2 of 2")
    assert not panel._save.disabled


def test_traces_rise_and_end_at_the_result(panel):
    panel.run()
    panel.wait(120)
    frame = logic.traces_frame(panel._traces)
    for result in panel.results:
        rows = frame[frame["strategy"] == result.strategy]
        assert rows["efficacy"].is_monotonic_increasing
        assert rows["efficacy"].iloc[-1] == pytest.approx(result.efficacy)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("strategy", ["channel_swap", "assignment", "random,20", "identity"])
def test_a_trace_never_falls_and_ends_at_the_result(strategy, seed):
    weight = torch.from_numpy(np.random.default_rng(seed).random((24, 32), np.float32))
    watched, trace = [], logic.Trace(strategy)
    logic.run_search(
        logic.Matrix.of("weight", weight), "2:4", trace, lambda: watched.append(trace.points[-1][1]), seed=seed
    )
    seconds, values = zip(*trace.points)
    assert list(values) == sorted(values)
    assert list(seconds) == sorted(seconds)
    assert values[-1] == trace.result.efficacy >= max(watched, default=0.0)


def test_stop_keeps_the_best_so_far(matrix):
    big = np.random.default_rng(1).random((256, 256), np.float32)
    panel = sl.widgets.PermutationGain(big, strategies=["channel_swap,100000", "random"], seconds=0)
    warm_up("channel_swap", "2:4")
    panel.run()
    deadline = time.monotonic() + 60
    while panel.running and not (panel._traces and len(panel._traces[0].points) > 3):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    panel.stop()
    panel.wait(60)
    (result,) = panel.results
    assert result.efficacy > 0
    assert sorted(result.order) == list(range(256))
    assert panel._status.value.startswith("Stopped, 1 of 2")


def test_the_order_of_a_matrix_is_saved_as_a_plan(panel, matrix, tmp_path):
    with pytest.raises(ValueError, match="no order to save yet"):
        panel.save(tmp_path / "order.json")
    panel.run()
    panel.wait(120)
    plan = sl.Plan.load(panel.save(tmp_path / "order.json"))
    moved = plan.moved({"matrix": torch.from_numpy(matrix)})["matrix"].numpy()
    assert retained(moved, np.arange(32)) == pytest.approx(panel.best.retained)
    assert retained(moved, np.arange(32)) > retained(matrix, np.arange(32))


def test_boxes_and_state_go_together(panel):
    ticked = [name for name, box in panel._ticks.boxes.items() if box.value]
    assert sorted(ticked) == sorted(panel.strategies)
    panel._ticks.boxes["auto"].value = True
    panel._ticks.boxes["random"].value = False
    assert panel.strategies == ("channel_swap", "auto")
    panel.strategies = ("stripe_groups",)
    assert [name for name, box in panel._ticks.boxes.items() if box.value] == ["stripe_groups"]


def test_errors_are_shown_in_words(panel):
    panel.strategies = ()
    panel._run.click()
    assert panel.problem == "no strategy is chosen: tick at least one"
    panel.strategies = ("optimal",)
    panel.pattern = "8:16"
    panel._run.click()
    panel.wait(60)
    assert "optimal" in panel.problem
    panel.pattern = "2:4"
    assert panel.problem == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "64:2:8"}, r"along the input channels \('2:8'\)"),
        ({"pattern": "m8n4_2d_greedy"}, "not 'm8n4_2d_greedy'"),
        ({"strategies": ["atuo"]}, r"unknown strategy 'atuo'; valid: .* Did you mean 'auto'"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        sl.widgets.PermutationGain(np.ones((4, 8), np.float32), **options)


def test_a_pattern_that_no_order_is_judged_by_is_not_taken(panel):
    panel._controls["pattern"]._field.value = "64:2:8"
    assert "along the input channels" in panel._controls["pattern"]._problem.value
    assert panel.pattern == "2:4"


def test_channels_that_do_not_divide_say_so():
    panel = sl.widgets.PermutationGain(np.ones((4, 6), np.float32))
    said = "matrix cannot be pruned to 2:4: 6 channels are no multiple of 4"
    assert (panel.problem, panel._status.value, panel._run.disabled) == (said, "", True)
    with pytest.raises(ValueError, match=said):
        panel.run()
    panel.pattern = "1:2"
    assert (panel.problem, panel._status.value, panel._run.disabled) == ("", "Ready.", False)


def test_layers_that_the_pattern_cannot_prune_are_marked():
    panel = sl.widgets.PermutationGain(nn.Sequential(nn.Linear(16, 10), nn.Linear(10, 3)), layer="1.weight")
    assert ("1  (3 x 10, not to 2:4)", "1.weight") in panel._controls["layer"].options
    assert panel.problem == "1.weight cannot be pruned to 2:4: 10 input channels are not a multiple of 4"
    panel.pattern = "1:2"
    assert ("1  (3 x 10)", "1.weight") in panel._controls["layer"].options
    assert panel.problem == ""


def test_every_layer_of_a_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 8), nn.Linear(10, 3))
    before = [p.clone() for p in model.parameters()]
    panel = sl.widgets.PermutationGain(model, strategies=["channel_swap"], layer="1.weight")
    panel.run_layers()
    panel.wait(120)
    frame = panel.layers_frame
    assert list(frame["layer"]) == ["0.weight", "1.weight"]
    assert (frame["permuted_lost_percent"] <= frame["lost_percent"]).all()
    assert (frame["ideal_lost_percent"] <= frame["permuted_lost_percent"]).all()
    report = sl.magnitude_report(model, "2:4").set_index("layer")
    assert frame["lost_percent"].tolist() == pytest.approx(report.loc[frame["layer"], "lost_percent"].tolist())
    assert all(map(torch.equal, before, model.parameters()))
    with pytest.raises(ValueError, match="no network"):
        sl.widgets.PermutationGain(np.ones((4, 8), np.float32)).run_layers()


def test_another_layer_forgets_what_was_found():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
    panel = sl.widgets.PermutationGain(model, strategies=["random"])
    panel.run()
    panel.wait(60)
    panel.layer = "1.weight"
    assert panel.results == []
    assert panel.best is None
    with pytest.raises(ValueError, match="unknown layer '7'"):
        panel.layer = "7"


class Residual(nn.Module):
    """Two weights read the same 16 channels, one reads 24, and the head's 10 inputs fill no groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.out, self.head = nn.Linear(16, 10), nn.Linear(10, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(self.out(x + self.down(torch.relu(self.up(x))))))


@pytest.fixture
def residual():
    torch.manual_seed(0)
    return Residual()


def gain_of(model, **options):
    return sl.widgets.PermutationGain(model, example_inputs=torch.randn(2, 8), strategies=["channel_swap"], **options)


def test_the_order_of_an_axis_is_saved_as_a_plan_that_moves_the_network(residual, tmp_path):
    panel = gain_of(residual, layer="stem.weight:0")
    assert panel.matrix.consumers == ("up.weight", "out.weight")
    assert "one order of 16 channels for 2 weights (up.weight, out.weight; 34 rows)" in panel._about.value
    assert ("stem.weight:0  (axis of 16 channels, read by 2)", "stem.weight:0") in panel._controls["layer"].options
    panel.run()
    panel.wait(120)
    frame = panel.matrix.consumers_frame(panel.best).set_index("layer")

    moved, x = Residual(), torch.randn(5, 8)
    moved.load_state_dict(residual.state_dict())
    before = moved.double()(x.double())
    report = sl.magnitude_report(moved, "2:4").set_index("layer")
    assert frame["lost_percent"].tolist() == pytest.approx(report.loc[frame.index, "lost_percent"].tolist())
    sl.Plan.load(panel.save(tmp_path / "plan.json")).apply(moved)
    assert torch.allclose(moved(x.double()), before, atol=1e-12)
    report = sl.magnitude_report(moved, "2:4").set_index("layer")
    assert frame["permuted_lost_percent"].tolist() == pytest.approx(report.loc[frame.index, "lost_percent"].tolist())
    both = report.loc[frame.index]
    assert panel.best.retained == pytest.approx(both["retained"].sum())
    assert panel.best.retained > panel.best.baseline
    assert [area.key for area in panel._consumers_picture.areas] == ["up.weight", "out.weight"]


def test_the_whole_network_by_axes_is_what_permute_does(residual):
    panel = gain_of(residual)
    panel.run_layers()
    panel.wait(120)
    moved = Residual()
    moved.load_state_dict(residual.state_dict())
    sl.permute(moved, torch.randn(2, 8), strategy="channel_swap")
    for model, column in ((residual, "lost_percent"), (moved, "permuted_lost_percent")):
        report = sl.magnitude_report(model, "2:4").set_index("layer").loc[panel.layers_frame["layer"]]
        assert panel.layers_frame[column].tolist() == pytest.approx(report["lost_percent"].tolist())
    assert panel._status.value.startswith("Whole network: Done, 3 of 3")


def test_an_axis_that_nothing_can_win_says_so(residual):
    panel = gain_of(residual, layer="out.weight:0")
    assert "nothing to win along out.weight:0: its channels fill no groups of 2:4" in panel.problem
    panel._run.click()
    assert "nothing to win" in panel.problem
    panel.layer = "down.weight"
    assert panel.problem == ""


def test_masks_are_by_the_saliency_that_is_searched():
    weight = torch.tensor([[4.0, 3, 2, 1]])
    panel = sl.widgets.PermutationGain(weight, saliency=lambda w: 1 / w)
    assert panel.matrix.mask(np.arange(4), "2:4").tolist() == [[False, False, True, True]]


def test_moved_is_about_neighbours():
    rng = np.random.default_rng(0)
    inside = np.concatenate([4 * g + rng.permutation(4) for g in rng.permutation(8)])
    assert logic.moved_percent(inside, 4) == 0
    inside[[0, 4]] = inside[[4, 0]]
    assert logic.moved_percent(inside, 4) == 100 * 8 / 32


def test_a_matrix_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"at least 2 dimensions, got shape \(3,\)"):
        sl.widgets.PermutationGain(np.ones(3))


def test_a_table_of_searches_of_2d_masks():
    """Their pattern is written ``m4n2_2d_best``: there is no colon to look for."""
    matrix, trace = logic.Matrix.of("w", torch.randn(8, 8)), logic.Trace("identity")
    logic.run_search(matrix, "m4n2_2d_best", trace, lambda: None)
    (row,) = logic.results_frame(matrix, [trace]).to_dict("records")
    assert row["moved_percent"] == 0
    assert row["lost_percent"] == row["permuted_lost_percent"] > row["ideal_lost_percent"]


def moved_by(file, residual):
    """A copy of the network with the plan in ``file`` applied, which computes what it did."""
    moved, x = Residual().double(), torch.randn(5, 8).double()
    moved.load_state_dict(residual.state_dict())
    before = moved(x)
    sl.Plan.load(file).apply(moved)
    assert torch.allclose(moved(x), before, atol=1e-12)
    return moved


@pytest.mark.parametrize("by_axes", [True, False])
def test_the_plan_of_the_whole_network_moves_it(residual, by_axes, tmp_path):
    panel = gain_of(residual) if by_axes else sl.widgets.PermutationGain(residual, strategies=["channel_swap"])
    with pytest.raises(ValueError, match="no plan of the network to save yet"):
        panel.save_network(tmp_path / "plan.json")
    panel.run_layers()
    panel.wait(120)
    moved = moved_by(panel.save_network(tmp_path / "plan.json"), residual)
    frame = panel.layers_frame
    report = sl.magnitude_report(moved, "2:4").set_index("layer").loc[frame["layer"]]
    assert frame["permuted_lost_percent"].tolist() == pytest.approx(report["lost_percent"].tolist())
    assert frame["permuted_lost_percent"].sum() < frame["lost_percent"].sum()
    assert not panel._save_all.disabled
    panel.pattern = "1:4"  # what was found belongs to the other pattern
    assert panel._save_all.disabled
    assert panel.layers_frame.empty


def test_the_order_of_a_layer_is_a_plan_that_re_indexes_its_input(residual, tmp_path):
    panel = sl.widgets.PermutationGain(residual, strategies=["channel_swap"], layer="out.weight")
    panel.run()
    panel.wait(120)
    moved = moved_by(panel.save(tmp_path / "order.json"), residual)
    after = sl.magnitude_report(moved, "2:4").set_index("layer").loc["out.weight", "retained"]
    assert after == pytest.approx(panel.best.retained)
    assert panel.best.retained > panel.best.baseline


def test_an_order_that_nothing_can_follow_is_not_saved():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[1].weight = model[0].weight
    panel = sl.widgets.PermutationGain(model, strategies=["random"])
    panel.run()
    panel.wait(60)
    panel._save.click()
    assert (
        "an order of 0.weight by itself makes no plan: its weight is also 1.weight, whose layer has the same order then. "
        "Give example_inputs=, and choose the axis"
    ) in panel._saved.value
    assert 'role="alert"' in panel._saved.value


def test_the_whole_network_obeys_the_seconds(residual, monkeypatch):
    given = []
    search = logic.search_permutation
    monkeypatch.setattr(
        logic, "search_permutation", lambda *a, time_limit, **k: given.append(time_limit) or search(*a, **k)
    )
    for model, options in ((residual, {"example_inputs": torch.randn(2, 8)}), (residual, {})):
        given.clear()
        panel = sl.widgets.PermutationGain(model, strategies=["random"], seconds=0.25, **options)
        panel.run_layers()
        panel.wait(60)
        assert set(given) == {0.25}


def test_nothing_is_drawn_before_there_is_something_to_say(panel):
    pictures = ("_traces_picture", "_groups_picture", "_order_picture", "_consumers_picture", "_layers_picture")
    assert not any(getattr(panel, name).shown for name in pictures)
    panel.run()
    panel.wait(60)
    assert [area.key for area in panel._traces_picture.areas][:2] == ["channel_swap", "random"]
    assert panel._traces_picture.areas[2].text.startswith("channel_swap\nefficacy ")
    assert len(panel._groups_picture.areas) == 8


def test_what_ends_while_the_curves_are_drawn_is_for_the_next_time(panel, monkeypatch):
    panel.run()
    panel.wait(120)
    kept, draw = panel._traces.pop(), matrices.running_searches
    job = SimpleNamespace(running=True, stopping=False, seconds=1.0)

    def ending_meanwhile(frame):
        panel._traces, job.running = [panel._traces[0], kept], False
        return draw(frame)

    monkeypatch.setattr(matrices, "running_searches", ending_meanwhile)
    panel._show_search(job)
    assert panel._status.value.startswith("Running, 1 of 2")
    panel._show_search(job)
    assert panel._status.value.startswith("Done, 2 of 2")


def test_a_strategy_that_fails_keeps_no_other_from_being_done(matrix):
    panel = sl.widgets.PermutationGain(np.tile(matrix, 4), strategies=["optimal", "random"], seconds=0.3)
    panel.run()
    panel.wait(60)
    assert panel._status.value.startswith("Done, 1 of 2")
    assert panel.problem.startswith("optimal: strategy 'optimal' takes up to 64 channels")
    assert "search_permutation(bound=True)" in panel.problem
    assert [area.key for area in panel._traces_picture.areas[:1]] == ["random"]
    assert "optimal" not in panel._traces_picture.text
    assert panel.best.strategy == "random"

    panel.strategies = ["optimal"]
    panel.run()
    panel.wait(60)
    assert panel.problem.startswith("optimal:")
    assert (panel._traces_picture.shown, panel._order_picture.shown, panel.best) == ({}, {}, None)
    assert panel._save.disabled


def test_saving_over_a_file_says_so(panel, tmp_path):
    panel.run()
    panel.wait(60)
    panel._file.value = str(tmp_path / "order.json")
    panel._save.click()
    assert panel._saved.value == f"Saved in {tmp_path / 'order.json'}."
    panel._save.click()
    assert panel._saved.value == f"Saved in {tmp_path / 'order.json'}, in place of what was there."
    panel._file.value = str(tmp_path / "nowhere" / "order.json")
    panel._save.click()
    assert f"not saved: there is no folder {tmp_path / 'nowhere'}" in panel._saved.value
    panel.run()
    assert panel._saved.value == ""
    panel.wait(60)


def test_with_no_strategy_ticked_there_is_nothing_to_run(panel):
    panel.run()
    panel.wait(60)
    panel.strategies = []
    assert (panel._run.disabled, panel._status.value) == (True, "No strategy is ticked.")
    panel.strategies = ["random"]
    assert (panel._run.disabled, panel._status.value) == (False, "Ready.")


def test_the_window_goes_through_the_weights(matrix):
    panel = sl.widgets.PermutationGain(np.tile(matrix, (2, 2)), strategies=["channel_swap"], seconds=0.3)
    panel.run()
    panel.wait(60)
    assert (panel._controls["row"].max, panel._controls["channel"].max) == (24, 32)
    panel.row, panel.channel = 24, 32
    left, right = (axes for axes in panel.order_figure.axes)
    assert (left.get_xlim(), right.get_xlim(), left.get_ylim()) == ((31.5, 63.5), (31.5, 63.5), (47.5, 23.5))
    assert panel._order_picture.text.startswith("matrix from row 24 and place 32 on")
    first = panel._order_picture.areas[32 * 24]
    assert first.key == f"24,{panel.best.order[32]}"


def test_layers_that_are_still_to_come_have_no_gain(residual):
    from sparselab.network.named_axes import NetworkAxes

    axes, found = NetworkAxes.of(residual, torch.randn(2, 8)), logic.NetworkSearch()

    def stop_after_one():
        if found.plans:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logic.search_axes(axes, "2:4", "random", found, stop_after_one)
    known = found.frame["permuted_lost_percent"].notna()
    assert 0 < known.sum() < len(known)
    assert len(strips.gain_strip(found.frame).marks) == known.sum()
    found = logic.NetworkSearch()
    logic.search_axes(axes, "2:4", "random", found, lambda: None)
    assert found.frame["permuted_lost_percent"].notna().all()


def test_what_orders_are_not_searched_for_is_told_what_they_are_for():
    with pytest.raises(
        ValueError, match=r"no orders are searched for '2;4': write N:M, e\.g\. '2:4', or masks both ways"
    ):
        sl.widgets.PermutationGain(np.ones((4, 8), np.float32), "2;4")
