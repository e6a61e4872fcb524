"""Does it pay? Choose a GPU, a precision and a batch; see where the layers stand, and what to expect."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import ipywidgets
import pandas as pd
import traitlets
from torch import nn

from sparselab.core.models import as_eager
from sparselab.core.registry import unknown_name
from sparselab.deploy.forecasting import Forecast, forecast
from sparselab.deploy.hardware import hardware, hardware_names
from sparselab.masks import AnyPattern
from sparselab.plots.style import Figure
from sparselab.widgets.choosing import unlinked
from sparselab.widgets.panel import Panel, column, numbers, pictures, wide
from sparselab.widgets.picture import Picture

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class BatchChooser(ipywidgets.HBox):
    """A slider over powers of two, and a field to type any other number of examples, which joins them."""

    value = traitlets.Int(1, min=1)

    def __init__(self) -> None:
        plain: dict[str, Any] = {"style": {"description_width": "initial"}}
        self._slider = ipywidgets.SelectionSlider(
            options=BATCHES, description="Batch", readout=False, continuous_update=False, **plain
        )
        field = ipywidgets.BoundedIntText(
            min=1, max=1_000_000, description="or type", **wide(layout={"width": "140px"})
        )
        super().__init__([self._slider, field])
        self.add_class("sparselab-controls")
        self._link = traitlets.link((self._slider, "value"), (self, "value"))
        traitlets.link((field, "value"), (self, "value"))

    @traitlets.validate("value")
    def _joined(self, proposal: Any) -> int:
        batch = int(proposal["value"])
        if batch not in self._slider.options:
            with unlinked(self._link):
                self._slider.options = sorted({*self._slider.options, batch})
                self._slider.value = batch
        return batch


class SpeedForecast(Panel):
    """Choose a GPU, a precision and a batch; see the layers under its roofs, and the sentence of ``sl.forecast``.

    State: ``hardware``, ``dtype``, ``batch``. The list of precisions has those that the GPU has sparse kernels for; where
    another GPU lacks the one chosen, its first takes the place, and a line says so. ``forecast`` is the ``Forecast`` chosen, ``frame`` its table and
    ``figure`` its picture. ``include`` and ``exclude`` name the layers that would be pruned. Only shapes of the model
    are used; nothing runs on a GPU. Raises ``ValueError`` as ``sl.forecast`` does.
    """

    hardware = traitlets.Unicode("h100")
    dtype = traitlets.Unicode("float16")
    batch = traitlets.Int(1, min=1)

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        pattern: AnyPattern = "2:4",
        *,
        hardware: str = "h100",
        dtype: str = "float16",
        batch: int = 1,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
    ) -> None:
        self._model, self._inputs = as_eager(model, "SpeedForecast"), example_inputs
        self._options: dict[str, Any] = {"pattern": pattern, "include": include, "exclude": exclude}
        self._found: dict[tuple[str, str, int], Forecast] = {}
        self._controls = _made_controls(hardware, dtype)
        self._picture, self._sentence, self._replaced = Picture(), numbers(), numbers()
        asked = column(*self._controls.values(), self._replaced, self.problem_line, self._sentence)
        super().__init__([pictures(asked, self._picture)])
        self.hardware, self.dtype, self.batch = hardware, dtype, batch
        self._links = {
            name: traitlets.link((self, name), (control, "value")) for name, control in self._controls.items()
        }
        self.observe(self._moved, list(self._controls))
        self._draw()

    @property
    def forecast(self) -> Forecast:
        """The forecast for what is chosen."""
        key = (self.hardware, self.dtype, self.batch)
        if key not in self._found:
            gpu, dtype, batch = key
            self._found[key] = forecast(
                self._model, self._inputs, hardware=gpu, dtype=dtype, batch=batch, **self._options
            )
        return self._found[key]

    @property
    def frame(self) -> pd.DataFrame:
        """One row for every layer."""
        return self.forecast.frame

    @property
    def figure(self) -> Figure:
        """The roofline."""
        return self.forecast.plot()

    @traitlets.validate("hardware")
    def _known_hardware(self, proposal: Any) -> str:
        if proposal["value"] not in hardware_names():
            raise unknown_name("hardware", proposal["value"], hardware_names())
        return str(proposal["value"])

    @traitlets.validate("dtype")
    def _known_dtype(self, proposal: Any) -> str:
        return hardware(self.hardware).precision(proposal["value"])

    def _moved(self, change: dict[str, Any]) -> None:
        self._replaced.value = ""
        before, gpu = self.dtype, hardware(self.hardware)
        if change["name"] == "hardware":
            self._offer(gpu.precisions)
        if self.dtype != before:  # which has been drawn
            self._replaced.value = html.escape(f"{gpu.name} has no sparse kernels for {before}: {self.dtype} instead.")
            return
        with self.problems_shown():
            self._draw()
        if self.problem:
            self._picture.clear()
            self._sentence.value = ""

    def _offer(self, precisions: Sequence[str]) -> None:
        """Let these be chosen; the one that is stays so if it is among them."""
        control, chosen = self._controls["dtype"], self.dtype if self.dtype in precisions else precisions[0]
        with unlinked(self._links["dtype"]):
            control.options, control.value = precisions, chosen
            self.dtype = chosen

    def _draw(self) -> None:
        sentence = self.forecast.sentence
        self._sentence.value = html.escape(sentence)
        self._picture.show(self.figure, sentence, zoom="xy")


def _made_controls(gpu: str, dtype: str) -> dict[str, ipywidgets.Widget]:
    plain: dict[str, Any] = {"style": {"description_width": "initial"}}
    chosen = hardware(gpu)  # a ValueError that lists the names
    names = {hardware(name).name: name for name in hardware_names()}
    precision: dict[str, Any] = {"options": chosen.precisions, "value": chosen.precision(dtype)}
    return {
        "hardware": ipywidgets.Dropdown(options=names, value=gpu, description="GPU", **plain),
        "dtype": ipywidgets.Dropdown(**precision, description="Precision", **plain),
        "batch": BatchChooser(),
    }
