from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sparselab.plots import matrices, strips, style

rng = np.random.default_rng(0)


def test_block_means_are_means():
    matrix = rng.random((250, 7))
    small = matrices._block_means(matrix)
    assert small.shape == (84, 7)
    assert small[0] == pytest.approx(matrix[:3].mean(0))
    assert small[-1] == pytest.approx(matrix[249:].mean(0))


def test_the_histogram_counts_every_weight():
    weights = rng.normal(size=(40, 48))
    mask = rng.random((40, 48)) < 0.5
    (axes,) = matrices.weight_sizes(weights, mask).axes
    both, pruned = (patch.get_data().values for patch in axes.patches)
    assert both.sum() == weights.size
    assert pruned.sum() == (~mask).sum()


def test_the_window_is_where_it_was_put_and_inside():
    weights = rng.normal(size=(60, 100))
    mask = weights > 0
    whole, window, _ = matrices.mask_view(weights, mask, 4, row=1000, channel=10).axes
    assert whole.patches[0].get_bbox().bounds == (9.5, 35.5, 48, 24)
    assert window.get_xlim() == (9.5, 57.5)
    dots = {tuple(point) for point in window.lines[0].get_xydata().astype(int)}
    assert dots == {(c, r) for r in range(36, 60) for c in range(10, 58) if not mask[r, c]}


def test_a_matrix_of_zeros_and_one_weight():
    for weights in (np.zeros((3, 4)), np.ones((1, 1))):
        matrices.mask_view(weights, np.ones(weights.shape, bool), 4)._repr_png_()


def test_shapes_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"mask_window needs two matrices of one shape, got \(2, 4\) and \(2, 3\)"):
        matrices.mask_window(np.ones((2, 4)), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="an order of their channels"):
        matrices.order_view(np.ones((2, 4)), np.arange(3), (np.ones((2, 4), bool),) * 2, 4)


def test_strip_and_traces():
    frame = pd.DataFrame({"layer": ["a", "b"], "lost_percent": [20.0, 30.0], "ideal_lost_percent": [10.0, 20.0]})
    (axes,) = strips.loss_strip(frame, "b").axes
    assert [bar.get_height() for bar in axes.patches] == [20.0, 30.0]
    traces = pd.DataFrame({"strategy": ["x", "x", "y"], "seconds": [0.1, 1.0, 0.5], "efficacy": [1.0, 2.0, 3.0]})
    (axes,) = matrices.running_searches(traces, bound=5.0).axes
    assert [text.get_text() for text in axes.get_legend().texts] == ["x: 2.0", "y: 3.0", "upper bound: 5.0"]
    with pytest.raises(ValueError, match="no rows"):
        matrices.running_searches(traces.head(0))


def test_curves_say_where_there_is_nothing():
    frame = pd.DataFrame({"run": ["a"], "step": [1], "quantity": ["top1"], "value": [50.0]})
    axes = matrices.training_curves(frame).axes
    assert [len(panel.lines) for panel in axes] == [1, 0, 0, 0]
    assert [text.get_text() for panel in axes for text in panel.texts] == ["nothing yet"] * 3


def test_small_files_look_the_same():
    figure = matrices.mask_view(rng.normal(size=(60, 100)), rng.random((60, 100)) < 0.5, 4)
    small = style.to_png(figure)
    assert len(small) < 100_000

    full = BytesIO()
    figure.savefig(full, format="png", dpi=figure.dpi)
    difference = np.asarray(Image.open(BytesIO(small)).convert("RGB"), int) - np.asarray(
        Image.open(full).convert("RGB"), int
    )
    assert np.abs(difference).mean() < 3


def test_a_small_picture_has_the_colours_of_the_large_one():
    weights = rng.standard_normal((96, 96)) ** 3
    figure = matrices.mask_view(weights, rng.random((96, 96)) > 0.5, 4)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    whole, small = (
        np.asarray(Image.open(BytesIO(each)).convert("RGB"), int) for each in (buffer.getvalue(), style.to_png(figure))
    )
    assert np.abs(whole - small).max() <= 16
