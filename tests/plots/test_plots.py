import numpy as np
import pandas as pd
import pytest
from torch import nn

import sparselab as sl
from sparselab import plots

FRAME = pd.DataFrame(
    {
        "layer": ["a.weight", "b.weight"] * 2,
        "pattern": ["2:4", "2:4", "1:4", "1:4"],
        "lost_percent": [20.0, float("nan"), 50.0, 51.0],
        "permuted_lost_percent": [18.0, 19.0, 45.0, 46.0],
        "ideal_lost_percent": [17.0, 17.0, 44.0, 44.0],
    }
)


def points(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_loss_by_layer_draws_each_pattern_where_it_belongs():
    (axes,) = plots.loss_by_layer(FRAME).axes
    assert points(axes) == {"2:4": ([20.0], [0]), "1:4": ([50.0, 51.0], [0, 1])}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_efficacy_by_layer():
    frame = FRAME[FRAME["pattern"] == "1:4"].reset_index(drop=True)
    (axes,) = plots.efficacy_by_layer(frame).axes
    assert points(axes)["channels permuted"] == ([45.0, 46.0], [0, 1])


@pytest.mark.parametrize("figure", [plots.loss_by_layer, plots.efficacy_by_layer])
def test_an_error_rather_than_an_empty_picture(figure):
    with pytest.raises(ValueError, match=f"{figure.__name__} needs the columns"):
        figure(pd.DataFrame({"x": [1]}))
    with pytest.raises(ValueError, match="the frame has no rows, so there is nothing to draw"):
        figure(FRAME.head(0))


def test_only_layers_that_cannot_be_pruned():
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.loss_by_layer(FRAME.iloc[[1]])


def swept(**attrs):
    frame = pd.DataFrame(
        {
            "pattern": ["2:4", "2:4", "1:4", "1:4", "1:4"],
            "permutation": [None, None, None, None, "auto"],
            "seed": [0, 1, 0, 1, 0],
            "dense_top1": [93.0, 93.0, 92.0, 92.0, 93.0],
            "finetuned_top1": [92.0, 91.0, 90.0, 89.0, float("nan")],
            "seconds_total": [10.0, 12.0, 8.0, 8.0, 1.0],
        }
    )
    frame.attrs = attrs
    return frame


def test_accuracy_bars_are_means_with_students_intervals():
    (axes,) = plots.accuracy_bars(swept(inputs=["pattern", "seed"])).axes
    assert [patch.get_width() for patch in axes.patches] == [91.5, 89.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2:4", "1:4"]
    (segments,) = [each.get_segments() for each in axes.collections if len(each.get_segments()) == 2]
    assert segments[0][:, 0].tolist() == pytest.approx([91.5 - 6.3531, 91.5 + 6.3531], abs=1e-3)  # t(0.975, 1) / 2
    assert axes.lines[-1].get_xdata()[0] == 92.5


def test_inputs_that_were_none_have_their_own_bar():
    frame = swept(inputs=["pattern", "permutation", "seed"]).fillna({"finetuned_top1": 91.0})
    (axes,) = plots.accuracy_bars(frame).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["2:4 · no permutation", "1:4 · no permutation", "1:4 · auto"]
    assert len(plots.accuracy_bars(frame, by=["permutation"]).axes[0].patches) == 2


SAID = [
    {"name": "finetuned_loss", "label": "", "higher_is_better": False},
    {"name": "finetuned_top1", "label": "finetuned top-1 (%)", "higher_is_better": True},
]


@pytest.mark.parametrize("figure", [plots.accuracy_bars, plots.pareto])
def test_the_headline_is_what_the_sweep_says_or_the_only_one_there_is(figure):
    frame = swept(inputs=["pattern", "seed"]).assign(finetuned_loss=[1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(ValueError, match=r"give value= one of \['finetuned_top1', 'finetuned_loss'\]"):
        figure(frame)  # a store from before metrics had directions
    assert "top1" in figure(frame, value="finetuned_top1").axes[0].get_title(loc="left")
    frame.attrs["quantities"] = SAID
    assert "finetuned loss" in figure(frame).axes[0].get_title(loc="left")
    frame["finetuned_loss"] = float("nan")  # it is in no trial of these
    assert "finetuned top-1 (%)" in figure(frame).axes[0].get_title(loc="left")


def test_a_front_goes_down_where_less_is_better():
    frame = pd.DataFrame(
        {"pattern": list("abcd"), "cost": [1.0, 2.0, 3.0, 4.0], "finetuned_loss": [5.0, 6.0, 4.0, 4.0]}
    )
    frame.attrs["quantities"] = SAID
    (axes,) = plots.pareto(frame, "cost").axes
    assert points(axes)["front"] == ([1.0, 3.0], [5.0, 4.0])
    assert axes.get_ylabel() == "finetuned loss, less is better"


def test_pareto_front_holds_what_nothing_beats():
    frame = pd.DataFrame({"pattern": list("abcd"), "cost": [1.0, 2.0, 3.0, 4.0], "top1": [5.0, 4.0, 6.0, 6.0]})
    (axes,) = plots.pareto(frame, "cost", "top1").axes
    assert points(axes)["front"] == ([1.0, 3.0], [5.0, 6.0])
    assert points(axes)["d"] == ([4.0], [6.0])


def test_search_pareto_joins_time_limits_and_nothing_else():
    """What had no limit went another way, so it lies on no line of those that had one."""
    rows = [("auto", None, 0.08, 39.0), ("auto", 0.1, 0.1, 38.0), ("auto", 0.5, 0.5, 40.0), ("anneal", None, 0.2, 37.0)]
    frame = pd.DataFrame(rows, columns=["strategy", "time_limit", "seconds", "efficacy"]).assign(rows=8, channels=8)
    (axes,) = plots.search_pareto(frame).axes
    assert points(axes)["auto"] == ([0.1, 0.5], [38.0, 40.0])
    assert points(axes)["auto, no limit"] == ([0.08], [39.0])
    assert points(axes)["anneal"] == ([0.2], [37.0])


def test_recompute_curves_average_over_seeds():
    rows = [
        ("2:4", key, "accuracy", step, "top1", value)
        for key, values in {"a": (90.0, 92.0), "b": (80.0, 94.0)}.items()
        for step, value in zip((0, 10), values)
    ]
    history = pd.DataFrame(rows, columns=["pattern", "key", "tracker", "step", "quantity", "value"])
    (axes,) = plots.recompute_curves(history, by=["pattern"]).axes
    assert points(axes)["2:4"] == ([0, 10], [85.0, 93.0])
    with pytest.raises(ValueError, match=r"no 'top5' in the history; it has \[\('accuracy', 'top1'\)\]"):
        plots.recompute_curves(history, "top5")


def test_search_traces_hold_the_best_so_far():
    frame = pd.DataFrame(
        {"strategy": ["x", "x", "y"], "seed": 0, "seconds": [0.1, 0.5, 2.0], "efficacy": [10.0, 30.0, 20.0]}
    )
    (axes,) = plots.search_traces(frame).axes
    assert points(axes) == {"x": ([0.1, 0.5, 2.0], [10.0, 30.0, 30.0]), "y": ([2.0, 2.0], [20.0, 20.0])}


@pytest.mark.parametrize("figure", [plots.accuracy_bars, plots.pareto, plots.recompute_curves, plots.search_traces])
def test_figures_of_sweeps_need_their_columns(figure):
    with pytest.raises(ValueError, match=f"{figure.__name__} needs the columns"):
        figure(pd.DataFrame({"x": [1]}))


@pytest.mark.parametrize("figure", [plots.accuracy_bars, plots.pareto])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "text"])
def test_figures_of_sweeps_in_which_nothing_can_be_drawn(figure, value):
    with pytest.raises(ValueError, match=r"nothing to draw|\['finetuned_top1'\] hold no numbers"):
        figure(swept().assign(finetuned_top1=value))


def test_layers_keep_their_order_though_some_patterns_cannot_prune_them():
    frame = pd.DataFrame({"layer": list("abcabc"), "pattern": ["2:4"] * 3 + ["1:2"] * 3})
    frame["lost_percent"] = [float("nan"), 20.0, float("nan"), 10.0, 11.0, float("nan")]
    (axes,) = plots.loss_by_layer(frame).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert points(axes) == {"2:4": ([20.0], [1]), "1:2": ([10.0, 11.0], [0, 1])}


def test_the_number_of_seeds_is_not_that_of_trials():
    frame = swept(inputs=["pattern", "permutation", "seed"]).fillna({"finetuned_top1": 91.0})
    labels = [plots.accuracy_bars(frame, by=by).axes[0].get_xlabel() for by in ("pattern", ["pattern", "permutation"])]
    assert "over 3 trials" in labels[0]
    assert "over 2 seeds" in labels[1]
    assert "one seed, no interval" in plots.accuracy_bars(frame.head(1)).axes[0].get_xlabel()
    assert "left out" not in plots.accuracy_bars(frame).axes[0].get_xlabel()
    value = next(name for name in frame if name.startswith("finetuned"))
    frame.loc[frame.index[0], value] = np.nan
    assert "; 1 trials without a value left out" in plots.accuracy_bars(frame).axes[0].get_xlabel()


def test_loss_by_layer_draws_what_magnitude_report_returns():
    report = sl.magnitude_report(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(4, 3)))
    axes = sl.plots.loss_by_layer(report).axes[0]
    assert axes.lines[0].get_label() == "2:4"
    np.testing.assert_allclose(axes.lines[0].get_xdata(), report["lost_percent"])
