"""What all figures share: one style, a figure that a notebook shows by itself, small files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import matplotlib.figure
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from sparselab.plots.marks import Mark

# Okabe and Ito's palette, dark enough ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # where it would be anyway; looking for room costs a fifth of the drawing
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 80,
    "savefig.dpi": 150,
}


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows by itself, without pyplot and its global list of figures.

    ``marks`` are the places in it that stand for something, which the lab's pictures answer with.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.marks: list[Mark] = []

    def _repr_png_(self) -> bytes:
        return to_png(self)


def to_png(figure: matplotlib.figure.Figure) -> bytes:
    """``figure`` as a small PNG: 256 colours take a third of the bytes, and the eye sees no difference."""
    drawn, buffer = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 0})
    in_few_colours(Image.open(drawn)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def in_few_colours(picture: Image.Image) -> Image.Image:
    """``picture`` in 256 colours, chosen so that the rarest of its own has one near it, too: a weight may be all that has it."""
    # The usual method gives the colours to what covers most, and a dark purple turns black.
    return picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


@contextmanager
def style() -> Iterator[None]:
    """Figures made inside are in the project's style."""
    with mpl.rc_context(_STYLE):
        yield


def plain_numbers(axis: Axis) -> None:
    """Numbers at the marks of a logarithmic ``axis`` as they are, and none at the small marks between them."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def cycle(values: tuple[str, ...]) -> Iterator[str]:
    """``values`` again and again."""
    while True:
        yield from values


def looks() -> Iterator[tuple[str, str]]:
    """Colours with markers; once the colours are used up they come again with other markers."""
    for turn in itertools.count():
        for number, colour in enumerate(COLOURS):
            yield colour, MARKERS[(number + turn) % len(MARKERS)]
