"""What all widgets have in common."""

import pandas as pd
import pytest
import torch
from torch import nn

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
import sparselab as sl
from sparselab.widgets.panel import Panel
from sparselab.widgets.picture import Picture
from sparselab.widgets.working import each_of, require_none_failed


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))


WIDGETS = {
    "MagnitudeLoss": lambda: sl.widgets.MagnitudeLoss(model()),
    "MaskRecomputation": lambda: sl.widgets.MaskRecomputation("digits"),
    "PermutationGain": lambda: sl.widgets.PermutationGain(model()),
    "PrunerComparison": lambda: sl.widgets.PrunerComparison(model(), [torch.randn(32, 16)], pruners=["wanda"]),
    "SpeedForecast": lambda: sl.widgets.SpeedForecast(model(), torch.randn(1, 16)),
    "SweepExplorer": lambda: sl.widgets.SweepExplorer(pd.DataFrame({"seed": [0, 1], "top1": [1.0, 2.0]})),
}


def parts(widget):
    """A widget and all in it, in the order in which they are seen."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def test_all_are_here():
    named = {name for name in sl.widgets.__all__ if issubclass(getattr(sl.widgets, name), Panel)}
    assert named == set(WIDGETS)


@pytest.mark.parametrize("name", WIDGETS)
def test_what_goes_wrong_is_said_between_the_controls_and_the_pictures(name):
    panel = WIDGETS[name]()
    shown = list(parts(panel))
    assert shown.count(panel.problem_line) == 1
    pictures = [place for place, each in enumerate(shown) if isinstance(each, Picture)]
    assert shown.index(panel.problem_line) < min(pictures)
    assert panel.problem_line.layout.display == "none"
    panel.problem = "1 < 2"
    assert panel.problem_line.layout.display is None
    assert panel.problem_line.value == '<span role="alert">1 &lt; 2</span>'
    panel.problem = ""
    assert panel.problem_line.layout.display == "none"
    if hasattr(panel, "wait"):
        panel.wait(60)


def test_reasons_that_are_alike_are_said_once():
    def fails(name):
        raise ValueError("too large" if name in "ac" else "odd")

    failed = each_of(["a", "b", "c"], fails, lambda: None)
    with pytest.raises(ValueError, match=r"^a, c: too large; b: odd$"):
        require_none_failed(failed)
    require_none_failed({})


def test_a_check_that_ends_the_work_ends_it():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each_of(["a"], print, stop)
