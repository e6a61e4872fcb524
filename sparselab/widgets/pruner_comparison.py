"""What several pruners make of the same layer: which weights stay, what they become, what it costs and how long it takes."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Sequence
from typing import Any

import ipywidgets
import pandas as pd
import traitlets
from torch import nn

from sparselab.core.batches import calibration_batches
from sparselab.core.models import as_eager
from sparselab.core.registry import unknown_name
from sparselab.masks import calculator
from sparselab.plots import matrices
from sparselab.plots import pruners as pictures_of
from sparselab.plots.style import Figure
from sparselab.pruners import get_pruner
from sparselab.statistics import PositionMask
from sparselab.statistics.positions import padding
from sparselab.widgets import pruning as logic
from sparselab.widgets.choosing import LayerChooser, PatternChooser, Ticks, fit_window, layer_labels, window_fields
from sparselab.widgets.job import Job
from sparselab.widgets.layers import PATTERNS, choosable_layers, first_choice, matrix_shape, pattern_text, require_names
from sparselab.widgets.panel import column, controls, numbers, tabs
from sparselab.widgets.picture import Picture
from sparselab.widgets.working import WorkingPanel, each_of, require_none_failed, state_of

PRUNERS = ("magnitude", "wanda", "sparsegpt", "admm")


class PrunerComparison(WorkingPanel):
    """Choose a layer, a pattern and pruners; see what each keeps and changes, its reconstruction error and its time.

    ``calibration`` are batches and ``mask`` says which positions count, both as ``sl.prune`` takes them. The statistics of a layer, in the model as it is, are collected when it is chosen, by passes that end at the layer;
    those of the last layers are kept. State: ``layer`` (the weight's name), ``pattern``, ``pruners`` (names, options
    allowed) and where the window stands: ``row``, ``channel``. Whatever is chosen is worked out at once in a thread;
    ``stop()`` ends that, keeping what was found, ``run()`` goes on, ``wait()`` waits. ``frame`` has one row for each
    pruner (``sparselab.widgets.pruning.comparison_frame``), ``figure`` is its picture, ``window_figure`` that of the
    weights. Changes nothing in the model, which is in evaluation mode while it is run. Raises ``ValueError`` for a
    model without layers, no calibration, and unknown names.
    """

    layer = traitlets.Unicode()
    pattern = traitlets.Unicode("2:4")
    pruners = traitlets.Tuple(PRUNERS)
    row = traitlets.Int(0, min=0)
    channel = traitlets.Int(0, min=0)

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable[Any],
        pattern: str = "2:4",
        *,
        layer: str | None = None,
        pruners: Sequence[str] = PRUNERS,
        mask: PositionMask | None = padding,
    ) -> None:
        self._layers = choosable_layers(as_eager(model, "PrunerComparison"))
        batches = calibration_batches(calibration, "to calibrate on")
        self._statistics = logic.LayerStatistics(model, batches, mask)
        self._found: dict[tuple[str, str, str], logic.PrunedLayer] = {}
        self._doing = ""
        text = pattern_text(pattern)
        require_names("pruner", pruners, "sparselab.pruners.PRUNERS")
        self._ticks = Ticks("Pruners", list(dict.fromkeys([*logic.pruner_names(), *pruners])))
        self._status, self._bars, self._windows = numbers(), Picture(), Picture()
        self._make_controls(text)
        chosen = controls(*(self._controls[name] for name in ("layer", "pattern")))
        window = controls(self._controls["row"], self._controls["channel"])
        shown = tabs(Numbers=column(self._bars), Weights=column(window, self._windows))
        super().__init__(
            [chosen, self._ticks, controls(self._run, self._stop, self._status), self.problem_line, shown],
            starters=[self._run],
            stopper=self._stop,
        )
        self.layer, self.pattern, self.pruners = layer or first_choice(self._layers, text), text, tuple(pruners)
        traitlets.link((self, "pruners"), (self._ticks, "value"))
        for name, control in self._controls.items():
            traitlets.link((self, name), (control, "value"))
        self.observe(self._chosen, ["layer", "pattern", "pruners"])
        self.observe(self._moved, ["row", "channel"])
        self._chosen({"name": "layer"})

    @property
    def results(self) -> list[logic.PrunedLayer]:
        """What is known of the layer and the pattern chosen, in the order of ``pruners``."""
        found = [self._found.get((self.layer, self.pattern, pruner)) for pruner in self.pruners]
        return [each for each in found if each is not None]

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each pruner that is done."""
        return logic.comparison_frame(self.results)

    @property
    def figure(self) -> Figure:
        """Reconstruction error, change and time of each pruner. Raises ``ValueError`` before one is done."""
        return pictures_of.pruner_bars(self.frame)

    @property
    def window_figure(self) -> Figure:
        """The window onto what each pruner left. Raises ``ValueError`` before one is done."""
        return self._windows_of(self.results)

    def _windows_of(self, found: Sequence[logic.PrunedLayer]) -> Figure:
        made = {each.pruner: (each.mask, each.weights) for each in found}
        groups = calculator(self.pattern).nm
        weights = logic.weights_of(self._layers[self.layer])
        at = {"row": self.row, "channel": self.channel}
        return pictures_of.pruner_windows(weights, made, groups and groups[1], **at)

    def portrait(self) -> Figure:
        """The numbers where there are any, else the layer."""
        return self.figure if self.results else matrices.whole_matrix(logic.weights_of(self._layers[self.layer]))

    def run(self) -> None:
        """Work out what is not known yet of what is chosen, in a thread. ``ValueError`` where that cannot be done."""
        if not self.pruners:
            raise ValueError("no pruner is chosen: tick at least one")
        layer, pattern, before = self._layers[self.layer], self.pattern, self._job
        logic.require_fit(layer, pattern)
        missing = [each for each in self.pruners if (layer.name, pattern, each) not in self._found]
        if before is not None:
            before.stop()
        if missing:
            self._start(lambda job: self._work(job, before, layer.name, pattern, missing), self._show)

    def _work(self, job: Job, before: Job | None, layer: str, pattern: str, missing: Sequence[str]) -> None:
        while before is not None and before.running:  # it ends at its next batch or pruner
            job.check()
            time.sleep(0.02)

        def prune(pruner: str) -> None:
            self._doing = pruner
            args = self._layers[layer], pattern, pruner, self._statistics, job.check
            self._found[layer, pattern, pruner] = logic.prune_layer(*args)

        require_none_failed(each_of(missing, prune, job.check))

    @traitlets.validate("layer")
    def _known_layer(self, proposal: Any) -> str:
        if proposal["value"] not in self._layers:
            raise unknown_name("layer", proposal["value"], self._layers)
        return str(proposal["value"])

    @traitlets.validate("pattern")
    def _known_pattern(self, proposal: Any) -> str:
        return pattern_text(proposal["value"])

    @traitlets.validate("pruners")
    def _known_pruners(self, proposal: Any) -> tuple[str, ...]:
        for pruner in proposal["value"]:
            get_pruner(pruner)
        return tuple(proposal["value"])

    def _make_controls(self, pattern: str) -> None:
        self._controls: dict[str, ipywidgets.Widget] = {
            "layer": LayerChooser(layer_labels(self._layers, pattern), tooltip="The weight to prune"),
            "pattern": PatternChooser(PATTERNS, pattern, pattern_text),
            **window_fields(pictures_of.WINDOW, "channel"),
        }
        button = ipywidgets.Button
        self._run = button(description="Run", button_style="primary", tooltip="Go on with what was stopped")
        self._stop = button(description="Stop", disabled=True, tooltip="End it, keep what was found")
        self._run.on_click(self._answering(self.run))
        self._stop.on_click(self._answering(self.stop))

    def _chosen(self, change: Any) -> None:
        if change["name"] == "pattern":
            self._controls["layer"].relabel(layer_labels(self._layers, self.pattern))
        else:
            self._fit_window()
        with self.problems_shown():
            self._draw(self.results)
            self._status.value = "Done." if self.results else ""
            self.run()

    def _fit_window(self) -> None:
        """Let the window go to the layer's last row and channel; both move at once, for one redraw."""
        window = pictures_of.window_rows(len(self.pruners)), pictures_of.WINDOW[1]
        with self.hold_trait_notifications():
            fit_window(self._controls, matrix_shape(self._layers[self.layer]), window)

    def _moved(self, _: Any) -> None:
        with self.problems_shown():
            self._draw(self.results)

    def _show(self, job: Job) -> None:
        if job is not self._job:  # another took its place
            return
        state, found = state_of(job), self.results  # as they are now: the work goes on while this is drawn
        self._draw(found)
        statistics = self._statistics
        doing = f", now {self._doing}" if state == "Running" and self._doing else ""
        self._status.value = html.escape(
            f"{state}: {len(found)} of {len(self.pruners)} pruners{doing}, {job.seconds:.1f} s; inputs of the layer: "
            f"{statistics.done} of {len(statistics.batches)} batches seen, on which errors are measured, too."
        )

    def _draw(self, found: Sequence[logic.PrunedLayer]) -> None:
        """The pictures, where there is something new to see."""
        if not found:
            self._bars.clear()
            self._windows.clear()
            return
        key = self.layer, self.pattern, tuple(each.pruner for each in found)
        said = f"{self.layer} at {self.pattern}, reconstruction error: {logic.in_short(found)}"
        self._bars.show_of(key, lambda: pictures_of.pruner_bars(logic.comparison_frame(found)), said)
        self._windows.show_of(
            (*key, self.row, self.channel),
            lambda: self._windows_of(found),
            f"Weights from row {self.row} and channel {self.channel} on as each pruner leaves them, and their change",
        )
