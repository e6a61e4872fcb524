import threading

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
import sparselab as sl
from sparselab.plots import pruners as pictures_of
from sparselab.statistics import SecondMoments
from sparselab.widgets import pruning as logic
from sparselab.widgets.layers import choosable_layers


class Twice(nn.Module):
    """A layer that is called twice in a pass, and one behind it that need not be reached."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.reached = 0

    def forward(self, x):
        x = self.middle(self.middle(self.first(x).relu()).relu())
        self.reached += 1
        return self.last(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Twice()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 8, generator=generator) for _ in range(3)]


@pytest.fixture
def panel(model, batches):
    panel = sl.widgets.PrunerComparison(
        model, batches, layer="middle.weight", pruners=["magnitude", "wanda", "sparsegpt"]
    )
    panel.wait(60)
    return panel


def inputs_of_middle(model, batches):
    """What the layer in the middle is given, in float64, by the definition."""
    model = model.double()
    with torch.no_grad():
        first = torch.cat([model.first(batch.double()).relu() for batch in batches])
        found = torch.cat([first, model.middle(first).relu()]).numpy()
    model.float()
    return found


def test_numbers_are_those_of_numpy(panel, model, batches):
    x = inputs_of_middle(model, batches)
    weight = model.middle.weight.detach().double().numpy()
    for row, each in zip(panel.frame.itertuples(), panel.results, strict=True):
        alone = np.where(each.mask, weight, 0)
        whole = np.square(x @ weight.T).sum()
        for new, percent in ((each.weights, row.dense_error_percent), (alone, row.mask_error_percent)):
            assert percent == pytest.approx(100 * np.square(x @ (weight - new).T).sum() / whole, rel=1e-3), row.pruner
        assert row.retained_percent == pytest.approx(100 * np.abs(alone).sum() / np.abs(weight).sum(), rel=1e-6)
        change = np.linalg.norm(each.weights - alone) / np.linalg.norm(alone)
        assert row.change_percent == pytest.approx(100 * change, rel=1e-4, abs=1e-4)
        shared = (each.mask & panel.results[0].mask).sum() / each.mask.sum()
        assert (row.density, row.shared_percent) == (0.5, pytest.approx(100 * shared))
    errors = panel.frame.set_index("pruner")["dense_error_percent"]
    assert errors["sparsegpt"] < errors["wanda"]


def test_they_are_what_the_pruners_return_and_the_model_stays(panel, model, batches):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sl.prune(model, batches, pruner="wanda", include="middle", sequential=False, progress=False)
    assert torch.equal(torch.from_numpy(panel.results[1].weights), model.middle.weight.detach())
    model.load_state_dict(before)
    panel.pattern = "1:4"
    panel.wait(60)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.middle._forward_pre_hooks
    assert model.training


def test_a_pass_ends_behind_the_last_call_of_the_layer(model, batches):
    statistics = logic.LayerStatistics(model, batches)
    found = statistics.of("middle.weight", [SecondMoments], lambda: None)[SecondMoments]
    assert model.reached == 1  # by the first batch, which tells how often the layer is called
    x = inputs_of_middle(model, batches)
    assert found.sums[0].numpy() == pytest.approx(x.T @ x, rel=1e-4)
    assert found.counts == (len(x),)


def test_statistics_are_collected_once_and_those_of_old_layers_go(model, batches, monkeypatch):
    monkeypatch.setattr(logic, "_MOST_LAYERS", 2)
    statistics, passes = logic.LayerStatistics(model, batches), []
    for name in ("first.weight", "middle.weight", "first.weight", "last.weight", "middle.weight"):
        statistics.of(name, [SecondMoments], lambda name=name: passes.append(name))
    assert passes[::3] == ["first.weight", "middle.weight", "last.weight", "middle.weight"]
    assert list(statistics.kept) == ["last.weight", "middle.weight"]


def test_what_is_known_is_not_worked_out_again(panel, monkeypatch):
    before, found = panel._bars.shown, panel.results
    asked = []
    prune_layer = logic.prune_layer
    monkeypatch.setattr(logic, "prune_layer", lambda *args: asked.append(args[2]) or prune_layer(*args))
    panel.pruners = ("magnitude", "sparsegpt", "ria")
    panel.wait(60)
    assert asked == ["ria"]
    panel.pruners = ("magnitude", "wanda", "sparsegpt")
    assert panel.results == found
    assert panel._bars.shown == before


def test_state_controls_and_pictures_go_together(panel):
    assert panel._status.value.startswith("Done: 3 of 3 pruners")
    before = panel._windows.shown
    panel._controls["layer"].value = "first.weight"
    panel._ticks.boxes["wanda"].value = False
    panel.wait(60)
    assert (panel.layer, panel.pruners) == ("first.weight", ("magnitude", "sparsegpt"))
    assert panel._windows.shown != before
    assert list(panel.frame["pruner"]) == ["magnitude", "sparsegpt"]
    alt = panel._bars.text
    assert "first.weight at 2:4, reconstruction error: magnitude" in alt
    assert {"image/png"} <= set(panel._repr_mimebundle_())


def test_another_choice_ends_the_work_for_the_one_before(model, batches, monkeypatch):
    going, gone = threading.Event(), threading.Event()

    def slow(layer, pattern, pruner, statistics, check):
        going.set()
        if layer.name == "middle.weight":
            gone.wait(30)
            check()
        return prune_layer(layer, pattern, pruner, statistics, check)

    prune_layer = logic.prune_layer
    monkeypatch.setattr(logic, "prune_layer", slow)
    panel = sl.widgets.PrunerComparison(model, batches, layer="middle.weight", pruners=["magnitude"])
    assert going.wait(30)
    panel.layer = "first.weight"
    gone.set()
    panel.wait(60)
    assert [each.layer for each in panel._found.values()] == ["first.weight"]
    assert panel.problem == ""


def test_stop_and_go_on(model, batches, monkeypatch):
    reached = threading.Event()
    prune_layer, panel = logic.prune_layer, None

    def until_stopped(layer, pattern, pruner, statistics, check):
        if pruner == "wanda" and not reached.is_set():
            reached.set()
            while True:
                check()
        return prune_layer(layer, pattern, pruner, statistics, check)

    monkeypatch.setattr(logic, "prune_layer", until_stopped)
    panel = sl.widgets.PrunerComparison(model, batches, pruners=["magnitude", "wanda"])
    assert reached.wait(30)
    panel._stop.click()
    panel.wait(60)
    assert panel._status.value.startswith("Stopped: 1 of 2 pruners")
    panel._run.click()
    panel.wait(60)
    assert list(panel.frame["pruner"]) == ["magnitude", "wanda"]


def test_done_is_said_when_all_is_drawn(panel, monkeypatch):
    """What ends while the pictures are drawn is for the next time."""
    kept = panel._found.pop(("middle.weight", "2:4", "sparsegpt"))
    draw = pictures_of.pruner_bars

    def ending_meanwhile(frame):
        panel._found["middle.weight", "2:4", "sparsegpt"] = kept
        return draw(frame)

    monkeypatch.setattr(pictures_of, "pruner_bars", ending_meanwhile)
    panel._show(panel._job)
    assert "2 of 3 pruners" in panel._status.value
    assert "sparsegpt" not in panel._bars.text
    panel._show(panel._job)
    assert "3 of 3 pruners" in panel._status.value


def test_errors_are_shown_in_words(panel, model, batches):
    panel.pruners = ()
    assert panel.problem == "no pruner is chosen: tick at least one"
    panel.pruners = ("magnitude",)
    assert panel.problem == ""
    panel.pattern = "1:5"
    assert panel.problem == "middle.weight cannot be pruned to 1:5: 16 input channels are not a multiple of 5"
    assert not panel._bars.shown
    assert not panel._windows.shown
    for name, value in (("layer", "9.weight"), ("pruners", ("magic",)), ("pattern", "4")):
        with pytest.raises(ValueError, match=r"9\.weight.*last\.weight|magic.*sparsegpt|is not a pattern"):
            setattr(panel, name, value)
    with pytest.raises(ValueError, match="no batch to calibrate on"):
        sl.widgets.PrunerComparison(model, [])


def test_data_that_do_not_reach_a_layer(batches):
    model = nn.ModuleDict({"used": nn.Linear(8, 8), "other": nn.Linear(8, 8)})
    model.forward = lambda x: model["used"](x)
    panel = sl.widgets.PrunerComparison(model, batches, layer="other.weight", pruners=["wanda"])
    panel.wait(60)
    assert panel.problem == "wanda: the calibration data did not reach the layer of 'other.weight'"


def test_padding_counts_for_nothing():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 8), nn.Linear(8, 8)

        def forward(self, input_ids, attention_mask):
            return self.head(self.embedding(input_ids))

    torch.manual_seed(0)
    model = Embedded()
    batch = {"input_ids": torch.tensor([[1, 2, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    panel = sl.widgets.PrunerComparison(model, [batch], pruners=["wanda"])
    panel.wait(60)
    assert panel._statistics.kept["head.weight"][SecondMoments].counts == (2,)


def test_the_layers_of_a_convolutional_network(batches):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 8, 3))
    data = [torch.randn(2, 8, 6, 6)]
    statistics = logic.LayerStatistics(model, data)
    for layer in choosable_layers(model).values():
        found = logic.prune_layer(layer, "2:4", "sparsegpt", statistics, lambda: None)
        assert found.mask.shape == logic.weights_of(layer).shape == found.weights.shape
        assert found.dense_error_percent < found.mask_error_percent


def test_the_picture_of_every_pruner_fits_a_window_and_reaches_every_row(model, batches):
    panel = sl.widgets.PrunerComparison(model, batches, layer="middle.weight", pruners=logic.pruner_names())
    panel.wait(60)
    assert len(panel.results) > 4
    room = 779 - 300  # px that JupyterLab leaves below the controls in a window of 1440 x 900
    for figure in (panel.figure, panel.window_figure):
        assert figure.get_figheight() * figure.dpi <= room
    row = panel._controls["row"]
    assert row.max == len(panel.results[0].mask) - pictures_of.window_rows(len(panel.results))
    panel.row = row.max
    last = [each.get_array().shape[0] + panel.row for each in panel.window_figure.axes[0].images]
    assert last == [16]
    panel.pruners = ("magnitude", "wanda")
    assert (panel.row, row.max) == (0, 0)
