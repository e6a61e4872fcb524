import numpy as np
import pandas as pd
import pytest

from sparselab.plots import pruners

rng = np.random.default_rng(0)


def made():
    weights, mask = rng.normal(size=(20, 30)), rng.random((20, 30)) < 0.5
    return weights, {"magnitude": (mask, np.where(mask, weights, 0)), "other": (mask, np.where(mask, 2 * weights, 0))}


def test_windows_show_pruned_weights_and_what_changed():
    weights, pruned = made()
    figure = pruners.pruner_windows(weights, pruned, 4, row=2, channel=50)
    above, below, _, changed = figure.axes
    mask = pruned["magnitude"][0]
    dots = {tuple(point) for point in above.lines[0].get_xydata().astype(int)}
    assert dots == {(c, r) for r in range(2, 18) for c in range(14, 30) if not mask[r, c]}
    assert ([t.get_text() for t in below.texts], list(changed.texts)) == (["unchanged"], [])
    part = np.where(mask, weights, 0)[2:18, 14:30]
    (scales,) = (text.get_text() for text in figure.texts)
    assert f"Δw: change of the weights kept, full colour at {abs(part).max():.2g}." in scales
    drawn = changed.images[0].get_array()
    assert np.ptp(drawn[..., :3], axis=-1)[~mask[2:18, 14:30]].max() < 0.02  # no colour where nothing is kept


def test_more_pruners_share_the_rows_and_the_picture_stays_as_high():
    weights, pruned = made()
    mask, new = pruned["other"]
    shown = {
        count: pruners.pruner_windows(weights, {str(name): (mask, new) for name in range(count)}) for count in (4, 8)
    }
    rows = {count: figure.axes[-1].images[0].get_array().shape[0] for count, figure in shown.items()}
    assert rows == {4: 16, 8: 8} == {count: pruners.window_rows(count) for count in rows}
    few, many = shown.values()
    assert many.get_figheight() < 1.15 * few.get_figheight()
    cells = [
        figure.axes[0].get_position().height * figure.get_figheight() / rows[count] for count, figure in shown.items()
    ]
    assert cells == pytest.approx([cells[0]] * 2)
    below = [axes.get_xlabel() for axes in many.axes]
    assert [place for place, label in enumerate(below) if label] == [9, 11, 13, 15]


def test_bars_are_as_long_as_the_numbers_say():
    frame = pd.DataFrame(
        {
            "pruner": ["a", "b"],
            "dense_error_percent": [3.0, 1.0],
            "mask_error_percent": [3.0, 5.0],
            "change_percent": [0.0, 40.0],
            "seconds": [0.1, 2.0],
        }
    )
    error, change, seconds = pruners.pruner_bars(frame).axes
    for axes, column in ((error, "dense_error_percent"), (change, "change_percent"), (seconds, "seconds")):
        assert [bar.get_width() for bar in axes.patches] == frame[column].tolist()
        assert [float(text.get_text()) for text in axes.texts] == frame[column].tolist()
    assert [label.get_text() for label in error.get_yticklabels()] == ["a", "b"]


def test_what_cannot_be_drawn_says_so():
    weights, pruned = made()
    with pytest.raises(ValueError, match="got 0 pruners"):
        pruners.pruner_windows(weights, {})
    with pytest.raises(ValueError, match="those of other have others"):
        pruners.pruner_windows(weights, pruned | {"other": (np.ones((2, 2), bool), np.ones((2, 2)))})
    with pytest.raises(ValueError, match="pruner_bars needs the columns"):
        pruners.pruner_bars(pd.DataFrame({"pruner": ["a"]}))
