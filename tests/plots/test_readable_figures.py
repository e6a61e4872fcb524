"""The figures of the lab can be read: no text is cut or covers another, all stand out, also when a page is narrow."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from sparselab import plots
from sparselab.plots import matrices, pruners, strips
from sparselab.plots import trials as trial_plots
from sparselab.plots.trials import View

rng = np.random.default_rng(0)
NARROW = 468  # px that JupyterLab leaves in a window of 900
LONG = ["one_shot", "recompute,every=20,until=60", "recompute,every=20,regrow=true,grow=5", "gradual,0,60"]


def weights(rows=1000, channels=1280):
    return rng.normal(0, 0.05, (rows, channels))


def layers(count, **columns):
    names = [f"features.{number}.a_rather_long_name_of_a_layer.weight" for number in range(count)]
    return pd.DataFrame({"layer": names, "lost_percent": 30.0, "ideal_lost_percent": 20.0, **columns})


def groups(count):
    channels = [", ".join(map(str, range(4 * at, 4 * at + 4))) for at in range(count)]
    return pd.DataFrame({"channels": channels, "lost_percent": 20 + 10 * rng.random(count)})


def searches():
    names = ["annealed_assignment", "stripe_groups,12,100", "channel_swap", "optimal"]
    rows = [(name, at, 40 * at) for name in names for at in (0.01, 0.5, 2.0)]
    return pd.DataFrame(rows, columns=["strategy", "seconds", "efficacy"])


def pareto(*seconds):
    rows = [("auto", at, at, 20 + k, 512, 512) for k, at in enumerate(seconds)]
    columns = ["strategy", "time_limit", "seconds", "efficacy", "rows", "channels"]
    return plots.search_pareto(pd.DataFrame(rows, columns=columns))


def curves():
    of = {"top1": 97.123, "loss": 0.51234, "retained_percent": 45.1234, "flipped_percent": 0.1}
    rows = [
        (run, step, name, value * (1 + step / 5e4)) for run in LONG for step in (1, 40) for name, value in of.items()
    ]
    return pd.DataFrame(rows, columns=["run", "step", "quantity", "value"])


def trials(colours=3, **view):
    schedules = [LONG[number % 4] + "x" * (number // 4) for number in range(colours)]
    grid = itertools.product(schedules, ["1:4", "2:4", "4:8"], range(5))
    frame = pd.DataFrame(grid, columns=["schedule", "pattern", "seed"])
    frame["finetuned_top1"] = 96 + rng.random(len(frame)) / 10
    return trial_plots.trials(frame, View(**{"x": "seed", "y": "finetuned_top1", **view}))


def order():
    w, mask = weights(64, 96), rng.random((64, 96)) < 0.5
    return matrices.order_view(w, rng.permutation(96), (mask, mask), 4)


def pruned(*names):
    w, masks = weights(64, 96), rng.random((len(names), 64, 96)) < 0.5
    return {
        name: (mask, np.where(mask, w * (1 + (k > 1) * 0.1), 0)) for k, (name, mask) in enumerate(zip(names, masks))
    }, w


def pruner_bars(*names):
    numbers = {"dense_error_percent": 21.34, "mask_error_percent": 28.12, "change_percent": 31.57, "seconds": 0.123}
    return pruners.pruner_bars(pd.DataFrame({"pruner": list(names), **numbers}))


def pruner_windows(*names):
    made, w = pruned(*names)
    return pruners.pruner_windows(w, made, 4, row=48, channel=80)


def roofs(*batches):
    kinds = [("cusparselt", 64, 1, 200.0), ("", 1, 9, 2.0), ("", 8, 9, 30.0)]
    rows = [
        (f"{number}.weight", batch, kernel, channels, positions, 1e9, at * batch**0.5, 40.0 / at, 1.5, 30.0)
        for batch in batches
        for number, (kernel, channels, positions, at) in enumerate(kinds)
    ]
    columns = ["layer", "batch", "kernel", "channels", "positions", "flops", "intensity", "dense_us_lower"]
    frame = pd.DataFrame(rows, columns=[*columns, "speedup_upper", "share_percent"])
    rates = {"bandwidth": 2039, "dense_rate": 312, "sparse_rate": 624}
    frame.attrs = {"hardware": "NVIDIA A100 SXM 80 GB", "dtype": "float16", "pattern": "2:4", **rates}
    return plots.roofline(frame)


PRUNERS = ["magnitude", "wanda", "ria,power=0.3", "sparsegpt,damping=0.05", "admm", "alps"]

FIGURES = {
    "pruners": lambda: pruner_bars(*PRUNERS),
    "one pruner": lambda: pruner_bars("magnitude"),
    "windows of pruners": lambda: pruner_windows(*PRUNERS),
    "window of a pruner": lambda: pruner_windows("magnitude"),
    "strip of a language model": lambda: strips.loss_strip(
        layers(210, permuted_lost_percent=25.0), layers(210)["layer"][7]
    ),
    "whole": lambda: matrices.whole_matrix(weights()),
    "window": lambda: matrices.mask_window(weights(), weights() > 0, 4, row=976, channel=1232),
    "sizes": lambda: matrices.weight_sizes(weights(), weights() > 0),
    "view": lambda: matrices.mask_view(weights(), weights() > 0, 4),
    "order": order,
    "groups": lambda: strips.group_losses(groups(320), groups(320)),
    "few groups": lambda: strips.group_losses(groups(4), groups(4)),
    "gains": lambda: strips.gain_strip(layers(33, permuted_lost_percent=25.0), layers(33)["layer"][7]),
    "gains of a language model": lambda: strips.gain_strip(layers(210, permuted_lost_percent=25.0)),
    "gains of few": lambda: strips.gain_strip(layers(3, permuted_lost_percent=25.0)),
    "strip": lambda: strips.loss_strip(layers(33, permuted_lost_percent=25.0), layers(33)["layer"][7]),
    "few layers": lambda: strips.loss_strip(layers(6), title="Lost by the weights that share the order"),
    "searches": lambda: matrices.running_searches(searches(), bound=90.0),
    "traces": lambda: plots.search_traces(searches()),
    "traces of moments": lambda: plots.search_traces(searches().assign(seconds=lambda frame: frame["seconds"] / 40)),
    "pareto, a decade": lambda: pareto(0.13, 0.3, 0.97, 2.9),
    "pareto, a moment": lambda: pareto(0.12, 0.13, 0.14),
    "pareto, ages": lambda: pareto(1e-4, 0.3, 2000.0),
    "curves": lambda: matrices.training_curves(curves()),
    "no curves yet": lambda: matrices.training_curves(curves().head(1)),
    "trials": trials,
    "trials by name": lambda: trials(x="schedule", colour="pattern"),
    "trials in panels": lambda: trials(4, x="pattern", colour="schedule", facet="schedule"),
    "roofline": lambda: roofs(1),
    "many colours": lambda: trials(12, colour="schedule"),
}


def texts(figure):
    """Every text that is drawn, with its box in pixels."""
    FigureCanvasAgg(figure).draw()
    axes = [a for a in figure.axes if a.get_visible()]
    found = [text for a in axes for text in [a.title, a._left_title, a.xaxis.label, a.yaxis.label, *a.texts]]
    for axis in [axis for a in axes for axis in (a.xaxis, a.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        at = [tick for tick in ticks if low - 1e-9 <= tick.get_loc() <= high + 1e-9]
        found += [tick.label1 for tick in at]
    found += [
        text for legend in [*figure.legends, *(a.get_legend() for a in axes)] if legend for text in legend.get_texts()
    ]
    found += figure.texts
    return [
        (text.get_text(), text.get_window_extent(), text)
        for text in found
        if text.get_visible() and text.get_text().strip()
    ]


def contrast(front, back=(1, 1, 1)):
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    dark, light = sorted([luminance(front), luminance(back)])
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(params=FIGURES)
def figure(request):
    return FIGURES[request.param]()


def test_no_text_is_cut_or_covers_another(figure):
    width, height = figure.canvas.get_width_height()
    drawn = texts(figure)
    assert len(drawn) > 5
    cut = [text for text, box, _ in drawn if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    assert cut == []
    pairs = itertools.combinations([(text, box) for text, box, artist in drawn if not artist.get_rotation() % 90], 2)
    assert [
        (a, b) for (a, first), (b, second) in pairs if first.shrunk(0.9, 0.9).overlaps(second.shrunk(0.9, 0.9))
    ] == []


def test_every_text_stands_out(figure):
    assert {
        text: contrast(artist.get_color()) for text, _, artist in texts(figure) if contrast(artist.get_color()) < 4.5
    } == {}


def test_text_can_be_read_where_the_page_is_narrow(figure, request):
    width = figure.get_figwidth() * figure.dpi
    if "view" in request.node.name:  # what a notebook shows without the widget
        return
    smallest = min(artist.get_fontsize() for *_, artist in texts(figure)) / 72 * figure.dpi
    assert smallest * min(1, NARROW / width) >= 8  # px


def test_contrast_is_that_of_wcag():
    assert contrast("black") == pytest.approx(21)
    assert contrast("#767676") == pytest.approx(4.54, abs=0.01)
