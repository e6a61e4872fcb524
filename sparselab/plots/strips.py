"""Figures with a bar for every layer or group, by name: what is lost, and what an order wins back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sparselab.plots.columns import require_columns
from sparselab.plots.marks import Mark, column
from sparselab.plots.style import COLOURS, Figure, style

_MOST_BESIDE = 6  # bars whose names fit side by side, in two lines each
_LINE = 14  # letters of a line of theirs
_MOST_NAMED = 40  # bars whose names fit side by side, turned
_MOST_APART = 100  # bars that have room between them
_LONGEST = 22  # letters of a turned name
_PALE = "#8FB8D6"


def loss_strip(frame: pd.DataFrame, layer: str | None = None, title: str = "Lost by every layer") -> Figure:
    """Magnitude lost by every layer side by side, ``layer`` in another colour, the ideal as a dash.

    ``frame`` has ``layer, lost_percent, ideal_lost_percent``, and may have ``permuted_lost_percent``, drawn as dots,
    and ``shape``, which the marks say. The key of a bar is its layer.
    """
    require_columns(frame, ("layer", "lost_percent", "ideal_lost_percent"), "loss_strip")
    drawn = frame.dropna(subset=["lost_percent"]).reset_index(drop=True)
    require_columns(drawn, (), "loss_strip")
    with style():
        figure, axes = _strip(drawn["layer"], height=1.25)
        _draw_bars(axes, drawn, "lost_percent", layer)
        if "permuted_lost_percent" in drawn:
            size = 2 if len(drawn) > _MOST_APART else 4
            dots = axes.plot(drawn["permuted_lost_percent"], "o", color=COLOURS[0], ms=size)
            dots[0].set_label("channels permuted")
        _draw_limits(axes, drawn["ideal_lost_percent"], "ideal: as dense, no structure")
        axes.set_ylim(0, 1.4 * max(1e-9, float(drawn["lost_percent"].max())))
        axes.set_ylabel("lost, % of the sum")
        axes.set_title(title + _in_orange(drawn, layer))
        axes.legend(loc="upper right", borderaxespad=0.0, ncols=2)
        figure.marks = _marks(axes, drawn)
    return figure


def gain_strip(frame: pd.DataFrame, layer: str | None = None) -> Figure:
    """Percentage points that an order wins back in every layer, the largest gain first, the ideal as the limit.

    ``frame`` has ``layer, lost_percent, permuted_lost_percent, ideal_lost_percent``; a layer without the second of them
    (not searched yet) is left out. The key of a bar is its layer.
    """
    require_columns(frame, ("layer", "lost_percent", "permuted_lost_percent", "ideal_lost_percent"), "gain_strip")
    points = {
        "gained": frame["lost_percent"] - frame["permuted_lost_percent"],
        "limit": frame["lost_percent"] - frame["ideal_lost_percent"],
    }
    drawn = frame.assign(**points).dropna(subset=["gained"])
    require_columns(drawn, (), "gain_strip")
    drawn = drawn.sort_values("gained", ascending=False, kind="stable").reset_index(drop=True)
    with style():
        figure, axes = _strip(drawn["layer"], height=1.6)
        _draw_bars(axes, drawn, "gained", layer)
        _draw_limits(axes, drawn["limit"], "limit: the ideal, which no order beats")
        axes.set_ylim(min(0.0, float(drawn["gained"].min())), 1.3 * max(1e-9, float(drawn["limit"].max())))
        axes.set_ylabel("gained, % of the sum")
        axes.set_title("Gained by every layer" + _in_orange(drawn, layer))
        axes.legend(loc="upper right", borderaxespad=0.0)
        figure.marks = _marks(axes, drawn)
    return figure


def group_losses(before: pd.DataFrame, after: pd.DataFrame) -> Figure:
    """Lost by every group of channels as trained and with the channels permuted, in each case most first.

    Both frames have ``channels`` (a text that says which), ``lost_percent``, and a row for each group.
    """
    for frame in (before, after):
        require_columns(frame, ("channels", "lost_percent"), "group_losses")
    if len(before) != len(after):
        raise ValueError(f"group_losses needs as many groups after as before, got {len(before)} and {len(after)}")
    old, new = (each.sort_values("lost_percent", ascending=False, kind="stable") for each in (before, after))
    with style():
        figure = Figure(figsize=(3.9, 2.8), dpi=100)
        axes = figure.add_axes((0.15, 0.17, 0.82, 0.72))
        for frame, colour, label in ((old, COLOURS[1], "as trained"), (new, COLOURS[0], "channels permuted")):
            edges = np.arange(len(frame) + 1) - 0.5
            axes.stairs(frame["lost_percent"], edges, color=colour, lw=1.6, label=label, baseline=None)
        both = pd.concat([old["lost_percent"], new["lost_percent"]])
        room = 0.08 * (float(both.max() - both.min()) or 1.0)
        axes.set_ylim(max(0.0, float(both.min()) - room), float(both.max()) + 3 * room)
        axes.set_xlim(-0.5, len(old) - 0.5)
        axes.xaxis.set_major_locator(whole_numbers(6))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda place, _: f"{place + 1:.0f}"))
        axes.set(title="Lost by every group", xlabel="groups, most lost first", ylabel="lost, % of the group's sum")
        axes.legend(loc="upper right", borderaxespad=0.0)
        figure.marks = [column(axes, place, _both(place, old, new), place) for place in range(len(old))]
    return figure


def whole_numbers(most: int) -> matplotlib.ticker.MaxNLocator:
    """At most so many ticks, at whole numbers."""
    return matplotlib.ticker.MaxNLocator(most, integer=True, steps=[1, 2, 5, 10])


def end_of(name: str, most: int) -> str:
    """``name``, cut from the left where it has more than so many letters."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def _strip(layers: pd.Series[str], height: float) -> tuple[Figure, Axes]:
    """A figure whose axes are ``height`` inches high, with the names of ``layers`` below them."""
    names = [str(name).removesuffix(".weight") for name in layers]
    few = len(names) <= _MOST_BESIDE
    names = _in_two_lines(names) if few else cut_alike(names, _LONGEST)
    below = 0.48 if few else 0.2 + 0.068 * max(map(len, names))
    inches = below + height + 0.27
    figure = Figure(figsize=(6.4, inches), dpi=100)
    axes = figure.add_axes((0.09, below / inches, 0.9, height / inches))
    if few:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, _MOST_BESIDE - 0.5)
    else:
        axes.xaxis.set_major_locator(whole_numbers(_MOST_NAMED))
        axes.xaxis.set_major_formatter(_Names(names))
        axes.tick_params(axis="x", rotation=90, labelsize=8, length=2, pad=2)
        axes.set_xlim(-0.7, len(names) - 0.3)
    axes.grid(visible=False, axis="x")
    return figure, axes


class _Names(matplotlib.ticker.Formatter):
    """The name of a place, whatever part of the axis is seen."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __call__(self, x: float, pos: int | None = None) -> str:
        place = round(x)
        return self._names[place] if 0 <= place < len(self._names) else ""


def _draw_bars(axes: Axes, drawn: pd.DataFrame, value: str, layer: str | None) -> None:
    places, heights = np.arange(len(drawn)), drawn[value]
    chosen: NDArray[Any] = (drawn["layer"] == layer).to_numpy()
    many = len(drawn) > _MOST_APART
    axes.bar(places, heights, color=np.where(chosen, COLOURS[1], _PALE).tolist(), width=1.0 if many else 0.75)
    if many and chosen.any():  # a bar of two pixels is not found by its colour
        above = heights[chosen] + 0.07 * float(heights.max())
        axes.plot(places[chosen], above, "v", color=COLOURS[1], ms=6)


def _draw_limits(axes: Axes, limits: pd.Series[float], label: str) -> None:
    places = np.arange(len(limits))
    half, width = (0.5, 0.8) if len(limits) > _MOST_APART else (0.4, 1.2)
    axes.hlines(limits, places - half, places + half, color="#000000", lw=width, label=label)


def _marks(axes: Axes, drawn: pd.DataFrame) -> list[Mark]:
    rows = enumerate(drawn.to_dict("records"))
    return [column(axes, place, _facts(row), str(row["layer"])) for place, row in rows]


def _in_orange(drawn: pd.DataFrame, layer: str | None) -> str:
    chosen = bool((drawn["layer"] == layer).any())
    return f" ({end_of(str(layer).removesuffix('.weight'), 32)} in orange)" if chosen else ""


def _in_two_lines(names: Sequence[str]) -> list[str]:
    """``blocks.4.expand`` as ``blocks.4`` over ``expand``, each cut from the left where it is long.

    >>> _in_two_lines(["blocks.11.project", "head"])
    ['blocks.11\\nproject', 'head']
    """
    parted = [name.rsplit(".", 1) for name in names]
    upper = iter(cut_alike([parts[0] for parts in parted if len(parts) == 2], _LINE))
    lines = [[next(upper), parts[1]] if len(parts) == 2 else parts for parts in parted]
    return ["\n".join(end_of(line, _LINE) for line in each) for each in lines]


def cut_alike(names: Sequence[str], most: int) -> list[str]:
    """``names``, cut from the left where they have more than ``most`` letters.

    Those that are too long lose their first part, and so does all that begins like them, until they fit.

    >>> cut_alike(["blocks.9.expand", "blocks.10.project", "head"], 15)
    ['...9.expand', '...10.project', 'head']
    """
    parts, lost = [name.split(".") for name in names], [0] * len(names)

    def text(place: int) -> str:
        return "..." * bool(lost[place]) + ".".join(parts[place][lost[place] :])

    def start(place: int) -> tuple[str, ...]:
        return tuple(parts[place][: lost[place] + 1])

    shortened = [place for place in range(len(names)) if len(parts[place]) > 1]
    while starts := {start(place) for place in shortened if len(text(place)) > most}:
        for place in shortened:
            lost[place] += start(place) in starts
        shortened = [place for place in shortened if lost[place] < len(parts[place]) - 1]
    return [end_of(text(place), most) for place in range(len(names))]


_SAYS = {
    "lost_percent": "lost {:.2f} %",
    "permuted_lost_percent": "lost {:.2f} % with its channels permuted",
    "gained": "gained {:.2f} points",
    "limit": "of {:.2f} at most",
    "ideal_lost_percent": "ideal {:.2f} %",
}


def _facts(row: Mapping[Hashable, Any]) -> str:
    """The name of a layer, and what the columns of its row say."""
    facts = [says.format(row[name]) for name, says in _SAYS.items() if name in row]
    shape = [" x ".join(map(str, row["shape"]))] if "shape" in row else []
    return "\n".join([str(row["layer"]).removesuffix(".weight"), *facts, *shape])


def _both(place: int, old: pd.DataFrame, new: pd.DataFrame) -> str:
    lines = [
        f"{label} {frame['lost_percent'].iloc[place]:.2f} %: channels {frame['channels'].iloc[place]}"
        for frame, label in ((old, "as trained"), (new, "permuted"))
    ]
    return "\n".join([f"Group {place + 1} of {len(old)}, most lost first", *lines])
