"""What the places in a figure stand for: a text to show there, a key to choose by, and where they are in its picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg

Key = str | int


@dataclass(frozen=True)
class Mark:
    """A place in ``axes``: the box between the corners ``low`` and ``high`` ``(x, y)``, in data units.

    A corner may be infinite, which ends at the border, or beyond the names that stand along it. Two equal corners are a point, with room of
    ``radius`` pixels around it. ``text`` has a fact in each line; ``key`` is what a click there chooses.
    """

    axes: Axes
    low: tuple[float, float]
    high: tuple[float, float]
    text: str
    key: Key
    radius: float = 0.0


@dataclass(frozen=True)
class Area:
    """A mark as it lies in the picture: in pixels of the figure's own resolution, from the upper left.

    A circle around ``(left, top)`` where it has a ``radius``, else a box.
    """

    left: float
    top: float
    width: float
    height: float
    radius: float
    text: str
    key: Key


def column(axes: Axes, place: float, text: str, key: Key, *, half: float = 0.5) -> Mark:
    """The mark of all that lies above and below ``place``: a low bar is as easy to hit as a high one."""
    return Mark(axes, (place - half, -math.inf), (place + half, math.inf), text, key)


def line(axes: Axes, place: float, text: str, key: Key, *, half: float = 0.5) -> Mark:
    """The mark of all that lies beside ``place``, of bars that lie."""
    return Mark(axes, (-math.inf, place - half), (math.inf, place + half), text, key)


def point(axes: Axes, x: float, y: float, text: str, key: Key, *, radius: float = 9.0) -> Mark:
    """The mark of a point."""
    return Mark(axes, (x, y), (x, y), text, key, radius)


def areas(marks: Iterable[Mark], height: float) -> list[Area]:
    """Where ``marks`` lie in the picture of their figure, which is ``height`` pixels high and has been drawn.

    What lies outside of its axes, where these are zoomed, is left out, and boxes end at their border.
    """
    of_axes: dict[Axes, list[Mark]] = {}
    for mark in marks:
        of_axes.setdefault(mark.axes, []).append(mark)
    return [area for axes, some in of_axes.items() for area in _areas(axes, some, float(height))]


def _areas(axes: Axes, marks: Sequence[Mark], height: float) -> Iterator[Area]:
    """Where the marks of one ``axes`` lie, together: a window of weights has a thousand."""
    shown = np.sort([axes.get_xlim(), axes.get_ylim()], axis=1).T
    given = np.array([(mark.low, mark.high) for mark in marks])
    corners = np.clip(given, *shown)  # an infinite corner would not survive a transform
    pixels = axes.transData.transform(corners.reshape(-1, 2)).reshape(-1, 2, 2)
    lefts, rights = np.sort(pixels[:, :, 0], axis=1).T.tolist()
    bottoms, tops = np.sort(pixels[:, :, 1], axis=1).T.tolist()
    left, bottom = _names_end(axes) if np.isneginf(given).any() else (math.inf, math.inf)
    lefts = np.where(np.isneginf(given[:, 0, 0]), np.minimum(lefts, left), lefts).tolist()
    bottoms = np.where(np.isneginf(given[:, 0, 1]), np.minimum(bottoms, bottom), bottoms).tolist()
    inside = (corners == given).all(axis=(1, 2)).tolist()
    for mark, x0, x1, y0, y1, whole in zip(marks, lefts, rights, bottoms, tops, inside):
        if mark.radius and whole:
            yield Area(x0, height - y1, 0.0, 0.0, mark.radius, mark.text, mark.key)
        elif not mark.radius and x1 > x0 and y1 > y0:
            yield Area(x0, height - y1, x1 - x0, y1 - y0, 0.0, mark.text, mark.key)


def _names_end(axes: Axes) -> tuple[float, float]:
    """How far the texts at the marks of both axes reach to the left and down, in pixels: a click there is meant, too."""
    # The last renderer may have drawn for a finer screen.
    renderer = RendererAgg(*axes.figure.bbox.size, axes.figure.dpi)  # type: ignore[no-untyped-call]
    beside, below = (
        [
            label.get_window_extent(renderer)
            for label in axis.get_ticklabels()
            if label.get_visible() and label.get_text()
        ]
        for axis in (axes.yaxis, axes.xaxis)
    )
    return min((box.x0 for box in beside), default=math.inf), min((box.y0 for box in below), default=math.inf)
