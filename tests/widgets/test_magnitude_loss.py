import re
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
import sparselab as sl
from sparselab.masks import CALCULATORS
from sparselab.plots import matrices
from sparselab.widgets import layers as logic


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.Linear(16, 12), nn.Linear(10, 4)
    )


@pytest.fixture
def panel(model):
    return sl.widgets.MagnitudeLoss(model)


def test_layers_with_one_input_channel_are_not_offered(model):
    assert list(logic.choosable_layers(model)) == ["0.weight", "3.weight", "4.weight"]
    with pytest.raises(ValueError, match="no Linear, convolution or attention layer"):
        logic.choosable_layers(nn.ReLU())


def test_the_first_choice_is_the_largest_that_fits(model):
    layers = logic.choosable_layers(model)
    assert logic.first_choice(layers, "2:4") == "0.weight"
    assert logic.first_choice(layers, "1:16") == "3.weight"
    assert logic.first_choice(layers, "1:7") == "0.weight"


@pytest.mark.parametrize("pattern", ["1:4", "2:4", "m4n2_2d_best", "unstructured,0.5"])
def test_numbers_are_those_of_numpy(model, pattern):
    layer = logic.choosable_layers(model)["0.weight"]
    view = logic.masked_layer(layer, pattern)
    weight = np.abs(model[0].weight.detach().numpy().astype(float))
    mask = sl.create_mask(model[0].weight, pattern).numpy()
    assert view.total == pytest.approx(weight.sum(), rel=1e-6)
    assert view.lost_percent == pytest.approx(100 * weight[~mask].sum() / weight.sum(), rel=1e-6)
    assert view.weights.shape == view.mask.shape == (16 * 9, 8)
    assert np.abs(view.weights[view.mask]).sum() == pytest.approx(weight[mask].sum(), rel=1e-5)
    assert f"loses {view.lost_percent:.2f} %" in logic.described(view)


def test_a_layer_that_does_not_fit_says_why(model):
    with pytest.raises(
        ValueError, match=r"4\.weight cannot be pruned to 2:4: 10 input channels are not a multiple of 4"
    ):
        logic.masked_layer(logic.choosable_layers(model)["4.weight"], "2:4")


def test_state_controls_and_picture_go_together(panel):
    assert panel.layer == "0.weight"
    before = panel._picture.shown["png"]
    panel._controls["pattern"].value = "1:4"
    assert panel.pattern == "1:4"
    assert panel._picture.shown["png"] != before
    assert "1:4 keeps" in panel._numbers.value
    panel.pattern = "2:4"
    assert panel._controls["pattern"].value == "2:4"
    assert panel._picture.shown["png"] == before


def test_any_pattern_can_be_set(panel):
    panel.pattern = "m8n3_1d"
    assert panel._controls["pattern"].value == panel.pattern == "3:8"


def test_errors_are_shown_in_words_and_go_away(panel):
    panel.layer = "4.weight"
    assert panel.problem == "4.weight cannot be pruned to 2:4: 10 input channels are not a multiple of 4"
    assert "10 input channels" in panel.problem_line.value
    assert panel._picture.text == panel._numbers.value == ""
    assert not panel._picture.shown
    panel.layer = "3.weight"
    assert panel.problem == panel.problem_line.value == ""
    assert panel._picture.shown["png"]


def test_unknown_names_are_refused_with_the_valid_ones(panel):
    for name, value in (("layer", "9.weight"), ("saliency", "magic"), ("pattern", "4")):
        with pytest.raises(ValueError, match=r"9\.weight.*3\.weight|magic.*magnitude|is not a pattern"):
            setattr(panel, name, value)


def test_one_move_is_one_redraw(panel, monkeypatch):
    drawn = []
    monkeypatch.setattr(type(panel), "_redraw", lambda self: drawn.append(self.layer))
    panel.layer = "3.weight"
    panel.row = 0
    assert drawn == ["3.weight"]


def test_a_change_draws_only_what_it_changes(panel, monkeypatch):
    drawn = []
    for name in ("whole_matrix", "mask_window", "weight_sizes"):
        draw = getattr(matrices, name)
        monkeypatch.setattr(matrices, name, lambda *a, draw=draw, name=name, **k: drawn.append(name) or draw(*a, **k))
    panel.pattern = "1:4"
    assert drawn == ["mask_window", "weight_sizes"]
    drawn.clear()
    panel.row = 7
    assert drawn == ["whole_matrix", "mask_window"]
    drawn.clear()
    panel.layer = "3.weight"
    assert drawn == ["whole_matrix", "mask_window", "weight_sizes"]


def test_the_window_follows_the_sliders_and_stays_inside(panel):
    assert panel._controls["row"].max == 16 * 9 - 24
    panel.row = 50
    assert panel._controls["row"].value == 50
    panel.layer = "3.weight"
    assert (panel.row, panel._controls["row"].max) == (0, 0)


def test_frame_and_figures_without_clicking(panel, model):
    panel.pattern = "4:8"
    expected = sl.magnitude_report(model, "4:8")
    assert panel.frame["lost_percent"].equals(expected["lost_percent"])
    assert len(panel.figure.axes) == 3
    assert len(panel.loss_figure.axes) == 1


def test_all_layers_are_counted_in_a_thread(panel):
    panel._job.wait(30)
    whole = panel.frame.attrs["whole_model"]
    assert f"<b>{whole['lost_percent']:.2f} %</b>" in panel._whole.value
    assert [area.key for area in panel._strip.areas] == ["0.weight", "3.weight"]


def test_counting_says_how_far_it_is_and_ends_for_another_pattern(model, monkeypatch):
    panel = sl.widgets.MagnitudeLoss(model)
    panel._job.wait(30)
    first, go_on, patterns = threading.Event(), threading.Event(), []
    report = panel._report

    def slow(pattern, saliency, callback=None):
        def counted(done, of):
            callback(done, of)
            patterns.append(pattern)
            if pattern == "1:4":
                first.set()
                go_on.wait(30)

        return report(pattern, saliency, counted)

    monkeypatch.setattr(panel, "_report", slow)
    panel.pattern = "1:4"
    assert first.wait(30)
    panel._counted()
    assert panel._whole.value == "Whole network: counting, 1 of 4 layers ..."
    panel.pattern = "4:8"
    go_on.set()
    panel._job.wait(30)  # of 1:4, whose end starts that of 4:8
    panel._job.wait(30)
    assert patterns == ["1:4", *["4:8"] * 4]
    assert "Whole network under 4:8" in panel._whole.value


def test_named_saliencies(model):
    panel = sl.widgets.MagnitudeLoss(model, saliencies={"square": torch.square})
    magnitude = panel._numbers.value
    panel.saliency = "square"
    assert "Σ square" in panel._numbers.value
    assert panel._numbers.value != magnitude


def test_pictures_have_a_text_and_a_static_twin(panel):
    assert "2:4 keeps" in panel._picture.text
    bundle = panel._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(bundle)


def test_names_are_escaped():
    model = nn.ModuleDict({"<b>": nn.Linear(8, 8)})
    panel = sl.widgets.MagnitudeLoss(model)
    assert "&lt;b&gt;.weight" in panel._numbers.value
    assert "<b>.weight" not in panel._numbers.value


@dataclass(frozen=True)
class Checkers:
    """Every second weight from ``start`` on."""

    start: int = 0
    multiples = (1, 2)

    def __call__(self, scores):
        return torch.arange(self.start, scores.shape[-1] + self.start).expand(scores.shape) % 2 == 0


def test_a_plugins_calculator_with_options_can_be_chosen(model, monkeypatch):
    monkeypatch.setattr(CALCULATORS, "_entries", dict(CALCULATORS._entries))
    CALCULATORS.register("checkers", Checkers)
    panel = sl.widgets.MagnitudeLoss(model, "checkers, start=1")
    assert panel.pattern == "checkers,start=1"
    lost = panel.frame.set_index("layer")["retained"]["0.weight"]
    panel.pattern = "checkers"
    other = panel.frame.set_index("layer")["retained"]["0.weight"]
    assert lost + other == pytest.approx(panel.frame.set_index("layer")["total"]["0.weight"])
    with pytest.raises(ValueError, match="option of mask calculator 'checkers' 'begin'"):
        panel.pattern = "checkers,begin=1"


def test_layers_that_are_not_in_the_list_are_counted_with_the_reason():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(6, 6, 1))
    panel = sl.widgets.MagnitudeLoss(model)
    panel._job.wait(60)
    assert panel._whole.value.endswith("Not in the list: 1 (depthwise: 1 input channel, nothing to choose from).")
    assert ("2  (6 x 6 x 1 x 1, not to 2:4)", "2.weight") in panel._controls["layer"].options
    panel.pattern = "1:2"
    assert ("2  (6 x 6 x 1 x 1)", "2.weight") in panel._controls["layer"].options


def test_a_bar_of_a_layer_that_no_window_shows_says_why():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))
    panel = sl.widgets.MagnitudeLoss(model, "unstructured,0.5")
    panel._job.wait(60)
    assert "Not in the list: 1 (one input channel, whose weights no window compares)." in panel._whole.value
    assert (panel.frame["ideal"] >= panel.frame["retained"]).all()
    panel._strip._heard(None, {"choose": "0.weight"})
    assert panel.problem == "0.weight is not in the list: one input channel, whose weights no window compares"
    assert panel.layer == "1.weight"


def test_the_sizes_of_weights_are_told():
    rng = np.random.default_rng(0)
    weights, mask = rng.standard_normal((40, 40)), rng.random((40, 40)) > 0.5
    marks = matrices.weight_sizes(weights, mask).marks
    said = [list(map(int, re.findall(r"(?:kept|pruned) (\d+)", mark.text))) for mark in marks]
    assert sum(kept for kept, _ in said) == mask.sum()
    assert sum(pruned for _, pruned in said) == (~mask).sum()
