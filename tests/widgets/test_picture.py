"""The picture by itself: what is handed to the page, and what the page's answers do."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("anywidget", reason="needs the extra 'lab'")
import sparselab as sl
from sparselab.plots import strips
from sparselab.widgets.picture import Picture


def strip(chosen=None):
    names = [f"{number}.weight" for number in range(20)]
    frame = pd.DataFrame({"layer": names, "lost_percent": 30.0, "ideal_lost_percent": 20.0})
    return strips.loss_strip(frame, chosen)


@pytest.fixture
def chosen():
    return []


@pytest.fixture
def picture(chosen):
    picture = Picture(chosen.append)
    picture.show(strip(), "Twenty layers", zoom="x", of="all", chosen="3.weight")
    return picture


def keys(picture):
    return [area.key for area in picture.areas]


def zoom(picture, first, last):
    """Draw a box from the middle of one area to the middle of another."""
    left, right = (picture.areas[keys(picture).index(key)] for key in (first, last))
    at = left.top + left.height / 2
    picture._heard(None, {"zoom": [left.left + left.width / 2, at, right.left + right.width / 2, at + 3]})


def test_what_the_page_gets(picture):
    shown = picture.shown
    assert Image.open(BytesIO(shown["png"])).size == (shown["width"], shown["height"])
    assert (shown["text"], shown["chosen"], shown["chooses"], shown["zoomed"]) == (
        "Twenty layers",
        "3.weight",
        True,
        False,
    )
    assert keys(picture) == [f"{number}.weight" for number in range(20)]
    assert Picture().shown == {}


def test_a_click_chooses(picture, chosen):
    picture._heard(None, {"choose": "7.weight"})
    assert chosen == ["7.weight"]


def test_a_box_zooms_and_what_is_chosen_meanwhile_leaves_it_zoomed(picture):
    zoom(picture, "4.weight", "8.weight")
    assert keys(picture) == [f"{number}.weight" for number in range(4, 9)]
    assert picture.shown["zoomed"]
    picture.show(strip("5.weight"), "Twenty layers", zoom="x", of="all")
    assert keys(picture) == [f"{number}.weight" for number in range(4, 9)]
    picture._heard(None, {"zoom": None})
    assert len(keys(picture)) == 20
    zoom(picture, "4.weight", "8.weight")
    picture.show(strip(), "Others", zoom="x", of="others")
    assert len(keys(picture)) == 20


def test_what_cannot_be_zoomed_stays(picture):
    picture.show(strip(), "Twenty layers")
    zoom(picture, "4.weight", "8.weight")
    assert len(keys(picture)) == 20
    picture._heard(None, {"zoom": [0.0, 0.0, 5.0, 5.0]})  # outside of the axes
    assert not picture.shown["zoomed"]


def test_a_screen_with_more_pixels_gets_more_of_them(picture):
    before = picture.areas
    picture.ratio = 2.0
    assert Image.open(BytesIO(picture.shown["png"])).size == (2 * picture.shown["width"], 2 * picture.shown["height"])
    for side in ("left", "top", "width", "height"):
        assert [getattr(area, side) for area in picture.areas] == pytest.approx(
            [getattr(area, side) for area in before]
        )


def test_the_same_key_is_not_drawn_again(picture):
    drawn = []
    for key in ("a", "a", "b"):
        picture.show_of(key, lambda: drawn.append(1) or strip(), "text")
    assert len(drawn) == 2


def test_the_script_is_part_of_the_package():
    picture = Picture()
    assert "export default { render }" in picture.get_state()["_esm"]
    assert "http" not in picture.get_state()["_esm"]
    assert ".sparselab-tip" in picture.get_state()["_css"]


def test_a_click_on_a_bar_chooses_the_layer_and_on_the_whole_matrix_moves_the_window():
    model = sl.tasks.get_task("digits").model()
    panel = sl.widgets.MagnitudeLoss(model)
    panel._job.wait(60)
    other = next(area.key for area in panel._strip.areas if area.key != panel.layer)
    panel._strip._heard(None, {"choose": other})
    assert panel.layer == other
    largest = max(panel._layers, key=lambda name: panel._layers[name].weight.numel())
    panel.layer = largest
    last = panel._all.areas[-1].key
    panel._all._heard(None, {"choose": last})
    row, channel = map(int, last.split(","))
    assert (panel.row, panel.channel) == (
        min(row, panel._controls["row"].max),
        min(channel, panel._controls["channel"].max),
    )


def test_lost_by_groups_is_what_numpy_counts():
    matrix = np.random.default_rng(0).random((24, 32), np.float32)
    panel = sl.widgets.PermutationGain(matrix)
    order = np.random.default_rng(1).permutation(32)
    frame = panel.matrix.groups_frame(order, "2:4")
    for number, group in enumerate(order.reshape(-1, 4)):
        part = np.sort(matrix[:, group].astype(float), axis=1)
        assert frame["lost_percent"][number] == pytest.approx(100 * part[:, :2].sum() / part.sum())
        assert frame["channels"][number] == ", ".join(map(str, group))
