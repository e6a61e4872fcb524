import pandas as pd
import pytest

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
