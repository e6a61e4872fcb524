"""What a pattern takes from every layer of a network: move something, see the consequence."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
import traitlets
from torch import nn

from sparselab.core import measures
from sparselab.core.models import as_eager
from sparselab.core.registry import unknown_name
from sparselab.plots import matrices, strips
from sparselab.plots.marks import Key
from sparselab.plots.style import Figure
from sparselab.reports import Counted, magnitude_report
from sparselab.saliency import ModelSaliency
from sparselab.widgets import layers as logic
from sparselab.widgets.choosing import LayerChooser, PatternChooser, fit_window, layer_labels
from sparselab.widgets.job import Job
from sparselab.widgets.panel import Panel, column, controls, in_words, numbers, pictures, soon, wide
from sparselab.widgets.picture import Picture

_ALONE = "one input channel, whose weights no window compares"


class MagnitudeLoss(Panel):
    """Choose a layer, a pattern and a saliency; see the weights that stay and go, and what every layer loses.

    State: ``layer`` (the weight's name), ``pattern``, ``saliency`` (a name), and where the window stands: ``row``,
    ``channel``. ``saliencies`` adds named ones to ``"magnitude"``: ``{"wanda": sl.saliency.collect_wanda(model, batches)}``.
    ``frame`` is the ``magnitude_report`` of the pattern, ``figure`` the picture of the layer. Reads the model, changes
    nothing in it. Raises ``ValueError`` for a model without layers, and an unknown layer or saliency.
    """

    layer = traitlets.Unicode()
    pattern = traitlets.Unicode("2:4")
    saliency = traitlets.Unicode("magnitude")
    row = traitlets.Int(0, min=0)
    channel = traitlets.Int(0, min=0)

    def __init__(
        self,
        model: nn.Module,
        pattern: str = "2:4",
        *,
        layer: str | None = None,
        saliencies: Mapping[str, ModelSaliency] | None = None,
    ) -> None:
        self._model, self._layers = model, logic.choosable_layers(as_eager(model, "MagnitudeLoss"))
        self._saliencies: dict[str, ModelSaliency] = {"magnitude": "magnitude", **(saliencies or {})}
        self._reports: dict[tuple[str, str], pd.DataFrame] = {}
        self._job: Job | None = None
        self._progress = (0, 0)
        self._scored: tuple[tuple[str, str], logic.ScoredLayer] | None = None
        self._seen: tuple[tuple[str, str, str], logic.MaskedLayer] | None = None
        self._drawn: tuple[object, ...] | None = None
        text = logic.pattern_text(pattern)
        self._all, self._picture, self._sizes = Picture(self._look_at), Picture(), Picture()
        self._strip = Picture(self._choose)
        self._numbers, self._whole = numbers(), numbers()
        self._controls = self._make_controls(text)
        first = controls(*(self._controls[name] for name in ("layer", "pattern", "saliency")))
        fields = self._numbers_beside()
        second = controls(self._controls["row"], fields["row"], self._controls["channel"], fields["channel"])
        super().__init__(
            [
                first,
                self.problem_line,
                pictures(self._all, self._picture, self._sizes),
                second,
                pictures(column(self._numbers, self._whole), self._strip),
            ]
        )
        self.layer, self.pattern = layer or logic.first_choice(self._layers, text), text
        for name, control in self._controls.items():
            traitlets.link((self, name), (control, "value"))
        self.observe(self._moved, ["layer", "pattern", "saliency", "row", "channel"])
        self._moved({"name": "layer"})

    @property
    def frame(self) -> pd.DataFrame:
        """The ``magnitude_report`` of the whole model under the pattern and saliency chosen."""
        if self._key not in self._reports:
            self._reports[self._key] = self._report(*self._key)
        return self._reports[self._key]

    @property
    def figure(self) -> Figure:
        """The picture of the layer."""
        view = self._view()
        return matrices.mask_view(view.weights, view.mask, view.m, row=self.row, channel=self.channel)

    @property
    def loss_figure(self) -> Figure:
        """The picture of what all layers lose."""
        ideal = measures.lost_percent(self.frame["ideal"], self.frame["total"])
        return strips.loss_strip(self.frame.assign(ideal_lost_percent=ideal), self.layer)

    @property
    def _key(self) -> tuple[str, str]:
        return self.pattern, self.saliency

    @traitlets.validate("layer")
    def _known_layer(self, proposal: Any) -> str:
        if proposal["value"] not in self._layers:
            raise unknown_name("layer", proposal["value"], self._layers)
        return str(proposal["value"])

    @traitlets.validate("saliency")
    def _known_saliency(self, proposal: Any) -> str:
        if proposal["value"] not in self._saliencies:
            raise unknown_name("saliency", proposal["value"], self._saliencies)
        return str(proposal["value"])

    @traitlets.validate("pattern")
    def _known_pattern(self, proposal: Any) -> str:
        return logic.pattern_text(proposal["value"])

    def _make_controls(self, pattern: str) -> dict[str, ipywidgets.Widget]:
        dropdown, slider = ipywidgets.Dropdown, ipywidgets.IntSlider
        plain = {"style": {"description_width": "initial"}}
        short = {"layout": {"width": "240px"}, **plain}
        return {
            "layer": LayerChooser(layer_labels(self._layers, pattern), tooltip="The weight to look at"),
            "pattern": PatternChooser(logic.PATTERNS, pattern, logic.pattern_text),
            "saliency": dropdown(options=list(self._saliencies), description="Saliency", tooltip="Score", **short),
            "row": slider(max=0, description="Window: row", readout=False, **wide(layout={"width": "290px"})),
            "channel": slider(max=0, description="channel", readout=False, **wide(layout={"width": "270px"})),
        }

    def _numbers_beside(self) -> dict[str, ipywidgets.Widget]:
        """A field beside each slider: a slider's handle has no name for a screen reader, and a number can be typed."""
        fields = {}
        for name, says in (("row", "from row"), ("channel", "from channel")):
            slider = self._controls[name]
            fields[name] = ipywidgets.BoundedIntText(min=0, max=0, description=says, **wide(layout={"width": "160px"}))
            traitlets.link((slider, "max"), (fields[name], "max"))
            traitlets.link((slider, "value"), (fields[name], "value"))
        return fields

    def _moved(self, change: Any) -> None:
        if change["name"] == "layer":
            self._fit_sliders()
        elif change["name"] == "pattern":
            self._controls["layer"].relabel(layer_labels(self._layers, self.pattern))
        state = (self.layer, *self._key, self.row, self.channel)
        if state == self._drawn:
            return
        only_the_window = self._drawn is not None and state[:3] == self._drawn[:3]
        self._drawn = state
        self._redraw()
        if not only_the_window:
            soon(self._redraw_layers)

    def _choose(self, layer: Key) -> None:
        """A bar is clicked; one of a layer that cannot be looked at says so and changes nothing."""
        with self.problems_shown():
            if layer not in self._layers:
                raise ValueError(f"{layer} is not in the list: {_ALONE}")
            self.layer = str(layer)

    def _look_at(self, place: Key) -> None:
        """A part of the whole matrix is clicked: the window goes there, or as near as it can."""
        row, channel = map(int, str(place).split(","))
        with self.hold_trait_notifications():
            self.row = min(row, self._controls["row"].max)
            self.channel = min(channel, self._controls["channel"].max)

    def _fit_sliders(self) -> None:
        """Let the window go to the layer's last row and channel; both move at once, for one redraw."""
        with self.hold_trait_notifications():
            fit_window(self._controls, logic.matrix_shape(self._layers[self.layer]), matrices.WINDOW)

    def _redraw(self) -> None:
        with self.problems_shown():
            view = self._view()
            text = logic.described(view, self.saliency)
            weights, mask, at = view.weights, view.mask, {"row": self.row, "channel": self.channel}
            self._all.show_of(
                (self.layer, self.row, self.channel),
                lambda: matrices.whole_matrix(weights, **at),
                "The magnitude of all weights, and where the window stands",
            )
            self._picture.show(matrices.mask_window(weights, mask, view.m, **at), text)
            self._sizes.show_of(
                (self.layer, *self._key),
                lambda: matrices.weight_sizes(weights, mask),
                "How large the weights kept and pruned are",
            )
            self._numbers.value = html.escape(text)
        if self.problem:
            for picture in (self._all, self._picture, self._sizes):
                picture.clear()
            self._numbers.value = ""

    def _view(self) -> logic.MaskedLayer:
        """The layer under its mask; of what decides it, only what has changed is computed anew."""
        key = (self.layer, *self._key)
        if self._scored is None or self._scored[0] != (self.layer, self.saliency):
            scored = logic.ScoredLayer.of(self._layers[self.layer], self._saliencies[self.saliency])
            self._scored = (self.layer, self.saliency), scored
        if self._seen is None or self._seen[0] != key:
            self._seen = key, self._scored[1].masked(self.pattern)
        return self._seen[1]

    def _report(self, pattern: str, saliency: str, callback: Counted | None = None) -> pd.DataFrame:
        return magnitude_report(
            self._model, pattern, saliency=self._saliencies[saliency], callback=callback, progress=False
        )

    def _redraw_layers(self) -> None:
        """All layers: at once where they are known, else when a thread has gone through them."""
        report = self._reports.get(self._key)
        if report is not None:
            whole = report.attrs["whole_model"]
            self._whole.value = (
                f"Whole network under {html.escape(self.pattern)}: <b>{whole['lost_percent']:.2f} %</b> lost; "
                f"{whole['eligible_layers']} of {whole['layers']} layers can be pruned, holding "
                f"{100 * whole['eligible_weights'] / max(1, whole['weights']):.1f} % of the weights."
            )
            left_out = report.loc[~report["layer"].isin(self._layers), "reason"].replace("", _ALONE).value_counts()
            said = "; ".join(f"{count} ({reason})" for reason, count in left_out.items())
            self._whole.value += f" Not in the list: {html.escape(said)}." if said else ""
            if whole["eligible_layers"]:
                text = f"Magnitude lost by every layer under {self.pattern}"
                self._strip.show(self.loss_figure, text, zoom="x", of=self._key, chosen=self.layer)
            else:
                self._strip.clear()
        elif self._job is None or not self._job.running:
            self._count(self._key)
        else:
            self._job.stop()  # it counts for another pattern

    def _count(self, key: tuple[str, str]) -> None:
        """Go through all layers in a thread, saying how far it is."""
        self._whole.value, self._progress = "Whole network: counting ...", (0, 0)

        def work(job: Job) -> None:
            def counted(done: int, of: int) -> None:
                job.check()
                self._progress = done, of

            self._reports[key] = self._report(*key, callback=counted)

        self._job = Job(work, self._counted).start()

    def _counted(self) -> None:
        job, (done, of) = self._job, self._progress
        if job is None:
            return
        if job.running:
            self._whole.value = f"Whole network: counting, {done} of {of} layers ..." if done else self._whole.value
        elif job.error is not None:
            self._whole.value = f"Whole network: {html.escape(in_words(job.error))}"
        else:
            self._redraw_layers()
