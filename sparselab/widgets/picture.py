"""A picture that answers: names and numbers under the pointer, a click that chooses, a box that zooms."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from io import BytesIO
from pathlib import Path
from typing import Any

import traitlets
from anywidget import AnyWidget
from matplotlib.axes import Axes

from sparselab.plots.marks import Area, Key, areas
from sparselab.plots.style import Figure

_HERE = Path(__file__).parent
_CUT_OFF = 0.01  # of a pixel, so that a size that rounding made a little too small does not lose a whole one

Limits = tuple[tuple[float, float], tuple[float, float]]


def png(figure: Figure, ratio: float = 1.0) -> bytes:
    """``figure`` as a PNG with ``ratio`` pixels for each of its own, packed quickly rather than tightly."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=ratio * figure.dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


class Picture(AnyWidget):
    """A figure, with a text for those who do not see it, that answers pointer and keyboard with its ``marks``.

    ``choose`` is called with the key of a mark that is clicked, or chosen by Enter. In the axes of a figure that is shown
    with ``zoom`` (``"x"``, ``"y"`` or ``"xy"``) a box can be drawn, to which they are zoomed; a double click
    or Escape zooms out. ``ratio`` is what the page asks for: the pixels of the screen for each of the picture.
    """

    _esm = _HERE / "picture.js"
    _css = _HERE / "picture.css"
    shown = traitlets.Dict().tag(sync=True)
    ratio = traitlets.Float(1.0, min=1.0, max=3.0).tag(sync=True)

    def __init__(self, choose: Callable[[Key], object] | None = None) -> None:
        self._choose = choose
        self._figure: Figure | None = None
        self._about: dict[str, Any] = {}
        self._key: Hashable = None
        self._limits: list[Limits] = []
        self._zoomed: dict[int, Limits] = {}
        super().__init__()
        self.add_class("sparselab-picture")
        self.observe(lambda _: self._draw(), "ratio")
        self.on_msg(self._heard)

    @property
    def text(self) -> str:
        """What the picture shows, in words; empty where there is none."""
        return str(self.shown.get("text", ""))

    @property
    def areas(self) -> list[Area]:
        """Where the marks of the figure are in the picture."""
        return [Area(**each) for each in self.shown.get("areas", ())]

    def show_of(self, key: Hashable, draw: Callable[[], Figure], text: str, **options: Any) -> None:
        """Show what ``draw`` draws, unless the picture of this ``key`` is there already; ``options`` as ``show`` has."""
        if key != self._key:
            self.show(draw(), text, **options)
            self._key = key

    def show(
        self, figure: Figure, text: str, *, zoom: str = "", of: Hashable = None, chosen: Key | None = None
    ) -> None:
        """Replace the picture. It stays zoomed as it is while ``of`` stays the same, and ``chosen`` is where keys begin."""
        same = bool(self._about) and of is not None and of == self._about["of"]
        self._key = None
        _to_whole_pixels(figure)
        self._figure, self._about = figure, {"text": text, "zoom": zoom, "of": of, "chosen": chosen}
        self._limits = [(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes]
        self._zoomed = self._zoomed if same else {}
        for number, limits in self._zoomed.items():
            _set_limits(figure.axes[number], limits)
        self._draw()

    def clear(self) -> None:
        """No picture."""
        self._key = self._figure = None
        self._about, self._zoomed, self.shown = {}, {}, {}

    def _draw(self) -> None:
        figure, about = self._figure, self._about
        if figure is None:
            return
        data = png(figure, self.ratio)
        width, height = (round(side * figure.dpi) for side in figure.get_size_inches())
        self.shown = {
            "png": data,
            "width": width,
            "height": height,
            "text": about["text"],
            "areas": [vars(area) for area in areas(figure.marks, figure.get_figheight() * figure.dpi)],
            "chosen": about["chosen"],
            "chooses": self._choose is not None,
            "zoom": bool(about["zoom"]),
            "zoomed": bool(self._zoomed),
        }

    def _heard(self, _: Any, content: dict[str, Any], buffers: Any = None) -> None:
        """What the page says: a mark is chosen, or a box drawn to zoom to, none to zoom out."""
        if "choose" in content and self._choose is not None:
            self._choose(content["choose"])
        elif content.get("zoom"):
            self._zoom_to(*map(float, content["zoom"]))
        elif "zoom" in content:
            self._zoom_out()

    def _zoom_to(self, left: float, top: float, right: float, bottom: float) -> None:
        """Zoom the axes around the middle of a box to it, in the directions that they can be zoomed in."""
        figure, zoom = self._figure, self._about.get("zoom", "")
        if figure is None or not zoom:
            return
        height = figure.get_figheight() * figure.dpi
        middle = ((left + right) / 2, height - (top + bottom) / 2)
        for number, axes in enumerate(figure.axes):
            if axes.get_visible() and axes.get_window_extent().contains(*middle):
                self._zoomed = {number: _limits_of(axes, (left, height - bottom), (right, height - top), zoom)}
                _set_limits(axes, self._zoomed[number])
                self._draw()
                return

    def _zoom_out(self) -> None:
        if self._figure is None or not self._zoomed:
            return
        self._zoomed = {}
        for axes, limits in zip(self._figure.axes, self._limits, strict=True):
            _set_limits(axes, limits)
        self._draw()


def _to_whole_pixels(figure: Figure) -> None:
    """Make the figure so large that its pixels are whole at every whole ratio: what is left of one is cut off."""
    width, height = ((round(side * figure.dpi) + _CUT_OFF) / figure.dpi for side in figure.get_size_inches())
    figure.set_size_inches(width, height)


def _limits_of(axes: Axes, low: tuple[float, float], high: tuple[float, float], zoom: str) -> Limits:
    """The limits of ``axes`` that show the box between two corners in pixels, the way round that they are drawn."""
    inside = axes.get_window_extent()
    corners = [(min(max(x, inside.x0), inside.x1), min(max(y, inside.y0), inside.y1)) for x, y in (low, high)]
    (x0, y0), (x1, y1) = axes.transData.inverted().transform(corners)
    return (
        (float(x0), float(x1)) if "x" in zoom and x0 != x1 else axes.get_xlim(),
        (float(y0), float(y1)) if "y" in zoom and y0 != y1 else axes.get_ylim(),
    )


def _set_limits(axes: Axes, limits: Limits) -> None:
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
