"""Where marks lie in a picture, against what matplotlib says of the artists there and against the pixels it drew."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from sparselab.plots import matrices, strips, trials
from sparselab.plots.marks import areas
from sparselab.plots.style import COLOURS

rng = np.random.default_rng(0)
LAYERS = pd.DataFrame(
    {
        "layer": [f"blocks.{number}.weight" for number in range(9)],
        "lost_percent": np.linspace(10, 30, 9),
        "permuted_lost_percent": np.linspace(10, 30, 9) - [1, 5, 2, 0, 8, 3, 4, 7, 6],
        "ideal_lost_percent": np.linspace(1, 21, 9),
        "shape": [(8, 16)] * 9,
    }
)


def drawn(figure):
    """The pixels of a figure, and where its marks lie in them."""
    buffer = BytesIO()
    figure.savefig(buffer, dpi=figure.dpi)
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    return pixels, areas(figure.marks, pixels.shape[0])


def test_the_area_of_a_bar_holds_its_patch():
    figure = strips.loss_strip(LAYERS, "blocks.4.weight")
    pixels, found = drawn(figure)
    (axes,) = figure.axes
    assert [area.key for area in found] == list(LAYERS["layer"])
    for area, bar in zip(found, axes.patches):
        box = bar.get_window_extent()
        assert area.left <= box.x0 < box.x1 <= area.left + area.width
        assert area.top <= pixels.shape[0] - box.y1 < pixels.shape[0] - box.y0 <= area.top + area.height + 1e-6
    orange = np.abs(pixels - 255 * np.array(to_rgb(COLOURS[1]))).max(axis=2) < 2
    columns = np.flatnonzero(orange.any(axis=0))
    assert found[4].left <= columns.min() < columns.max() <= found[4].left + found[4].width


@pytest.mark.parametrize("draw", [strips.gain_strip, strips.loss_strip])
def test_the_name_under_a_bar_belongs_to_its_area(draw):
    figure = draw(LAYERS)
    pixels, found = drawn(figure)
    names = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert len(names) == len(LAYERS)
    for label in names:
        (x0, y0), (x1, y1) = label.get_window_extent().get_points()
        x, y = (x0 + x1) / 2, pixels.shape[0] - (y0 + y1) / 2
        there = [a.key for a in found if a.left <= x <= a.left + a.width and a.top <= y <= a.top + a.height]
        assert there == [f"{label.get_text()}.weight"]


def test_a_bar_says_its_name_and_its_numbers():
    _, found = drawn(strips.loss_strip(LAYERS.drop(columns="permuted_lost_percent")))
    assert found[0].text == "blocks.0\nlost 10.00 %\nideal 1.00 %\n8 x 16"


def test_gains_are_sorted_and_named():
    figure = strips.gain_strip(LAYERS)
    _, found = drawn(figure)
    assert [area.key for area in found] == [f"blocks.{number}.weight" for number in (4, 7, 8, 1, 6, 5, 2, 0, 3)]
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([8, 7, 6, 5, 4, 3, 2, 1, 0])
    assert "gained 8.00 points\nof 9.00 at most" in found[0].text
    figure.canvas.draw()
    names = [label.get_text() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert names == [area.key.removesuffix(".weight") for area in found]


def test_the_area_of_a_point_is_around_what_was_drawn():
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0, np.nan], "b": [3.0, 9.0, 1.0, 2.0]}, index=[7, 8, 9, 10])
    figure = trials.trials(frame, trials.View("a", "b"))
    pixels, found = drawn(figure)
    assert [(area.key, area.text) for area in found] == [(0, "b 3\na 1"), (1, "b 9\na 2"), (2, "b 1\na 4")]
    paper = pixels[2, 2]
    for area in found:
        assert area.radius > 0
        middle = pixels[round(area.top), round(area.left)]
        assert np.abs(middle - 255 * np.array(to_rgb(COLOURS[0]))).max() < 60
        assert (middle != paper).any()


def test_a_cell_of_a_window_is_where_its_colour_is():
    weights = np.zeros((6, 8))
    weights[2, 5] = 1.0
    pixels, found = drawn(matrices.mask_window(weights, np.ones((6, 8), bool)))
    assert len(found) == 48
    (cell,) = [area for area in found if area.key == "2,5"]
    assert cell.text == "Row 2, channel 5\n1, kept"
    strong = np.argwhere(pixels.max(axis=2) - pixels.min(axis=2).astype(int) > 40)
    assert strong.min(axis=0).tolist() == pytest.approx([cell.top, cell.left], abs=1.5)
    assert strong.max(axis=0).tolist() == pytest.approx([cell.top + cell.height, cell.left + cell.width], abs=1.5)


def test_blocks_cover_the_whole_matrix():
    weights = rng.normal(size=(100, 2000))
    _, found = drawn(matrices.whole_matrix(weights))
    assert len(found) == 5 * 12
    assert sum(area.width * area.height for area in found) == pytest.approx(0.75 * 270 * 0.75 * 310)
    assert found[1].text.split("\n")[:2] == ["Rows 0 to 23", "channels 167 to 333"]
    assert found[1].text.endswith(f"mean |w| {np.abs(weights[:24, 167:334]).mean():.3g}")


def test_groups_come_with_the_most_lost_first():
    before = pd.DataFrame({"channels": ["0, 1", "2, 3"], "lost_percent": [10.0, 20.0]})
    after = pd.DataFrame({"channels": ["0, 2", "1, 3"], "lost_percent": [12.0, 11.0]})
    _, found = drawn(strips.group_losses(before, after))
    assert found[0].text == (
        "Group 1 of 2, most lost first\nas trained 20.00 %: channels 2, 3\npermuted 12.00 %: channels 0, 2"
    )
    with pytest.raises(ValueError, match="as many groups after as before, got 2 and 1"):
        strips.group_losses(before, after.head(1))


def test_what_is_zoomed_away_has_no_area():
    figure = strips.loss_strip(LAYERS)
    figure.axes[0].set_xlim(1.8, 4.5)
    _, found = drawn(figure)
    assert [area.key for area in found] == ["blocks.2.weight", "blocks.3.weight", "blocks.4.weight"]
    border = figure.axes[0].get_window_extent()
    assert found[0].left == pytest.approx(border.x0)
    assert found[-1].left + found[-1].width == pytest.approx(border.x1)
