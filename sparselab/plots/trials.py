"""The figure of a sweep that is explored: any column against any other, coloured and in panels, trial by trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import t

from sparselab.plots.columns import require_columns
from sparselab.plots.marks import point
from sparselab.plots.strips import end_of
from sparselab.plots.style import COLOURS, MARKERS, Figure, plain_numbers, style

# None that white, or black, hides.
_COLOURS = LinearSegmentedColormap.from_list("scale", [COLOURS[0], COLOURS[3], COLOURS[4]])
MOST_PANELS = 9
MOST_NAMES = 14
NONE = "none"


@dataclass(frozen=True)
class View:
    """Which column goes where: ``x``, ``y``, and the columns (or ``None``) that colour points and make panels."""

    x: str
    y: str
    colour: str | None = None
    facet: str | None = None

    @property
    def columns(self) -> list[str]:
        """Those that are used."""
        return [name for name in (self.x, self.y, self.colour, self.facet) if name is not None]


def trials(frame: pd.DataFrame, view: View, *, chosen: Any = None, width: float = 6.4) -> Figure:
    """Every trial of a sweep's ``frame`` as a point of ``view``; the row labelled ``chosen`` has a ring.

    Numbers lie where they are, names beside each other, ``none`` among them. Few inputs and names are told apart by colours and
    markers, measured numbers by a scale of colours. Over trials at one place that only their seed tells apart their mean
    and its 95% interval (Student's t) are drawn, as far as half the height of the points beyond them. Rows that lack ``y``
    (failed trials), or a number ``x``, are left out. The key of a point is the place of its row in ``frame``. ``width`` is in
    inches; the figure is as high as its panels need. Raises ``ValueError`` for columns that are not there, for nothing to
    draw, and for more panels than can be read.
    """
    drawn = _drawable(frame, view)
    facets, series = _names(drawn, view.facet), _Series.of(drawn, view.colour)
    if len(facets) > MOST_PANELS:
        raise ValueError(f"trials: {view.facet!r} has {len(facets)} values, more than {MOST_PANELS} panels")
    heights, (across, names) = drawn[view.y].to_numpy(np.float64), _across(drawn[view.x])
    settings, panel = _settings(drawn), _codes(drawn, view.facet, facets)
    if names is not None and view.colour not in (None, view.x):  # side by side, so that none covers another
        across = across + (series.codes - (len(series.names) - 1) / 2) * min(0.15, 0.6 / len(series.names))
    turned = names is not None and not _fit(names, width, len(facets))
    with style():
        figure = Figure(figsize=(width, _LEAST_HEIGHT), dpi=100)
        legend = _legend_shape(figure, series.names[:MOST_NAMES]) if series.told_by_names else (0, 0)
        margins = (_BOTTOM if not turned else _NAMES_BELOW, _RIGHT if series.scale is None else _SCALE)
        panels = _panels(figure, len(facets), legend[0], margins)
        for number, axes in enumerate(panels):
            series.draw(axes, across, heights, settings, panel == number)
            if view.facet is not None:
                axes.set_title(_title(view.facet, facets[number], axes.get_position().width * figure.get_figwidth()))
            if names is not None:
                _name_places(axes, names, turned)
            else:
                _mark_places(axes, across, len(facets))
        _limit_height(panels[0], heights)
        if view.facet is None:
            panels[0].set_title(f"{view.y} against {view.x}, {len(drawn)} trials")
        _label_axes(figure, view)
        if series.told_by_names:
            _draw_legend(figure, panels[0], series.column, legend[1])
        elif series.scale is not None:
            _draw_scale(figure, panels, series)
        if chosen in drawn.index:
            at = drawn.index.get_loc(chosen)
            panels[panel[at]].plot(across[at], heights[at], "o", ms=14, mfc="none", mec="#000000", mew=1.6)
        places, said = np.flatnonzero(placed(frame, view)), _trial_texts(drawn, view)
        figure.marks = [
            point(panels[number], float(x), float(y), text, int(place))
            for number, x, y, text, place in zip(panel, across, heights, said, places)
        ]
    return figure


@dataclass(frozen=True, eq=False)
class _Series:
    """The trials told apart by the values of ``column``: each has the number ``codes`` of one of ``names``.

    Or they are one series, whose points have the colours that a ``scale`` gives to ``values``.
    """

    column: str
    codes: NDArray[np.int64]
    names: list[str]
    values: NDArray[np.float64]
    scale: ScalarMappable | None

    @classmethod
    def of(cls, drawn: pd.DataFrame, column: str | None) -> _Series:
        if column is None or is_named(drawn, column):
            names = _names(drawn, column)
            return cls(column or "", _codes(drawn, column, names), names, np.zeros(len(drawn)), None)
        values = drawn[column].to_numpy(np.float64, na_value=np.nan)
        known = values[np.isfinite(values)]
        scale = ScalarMappable(Normalize(*((known.min(), known.max()) if len(known) else (0, 1))), _COLOURS)
        return cls(column, np.zeros(len(drawn), np.int64), [""], values, scale)

    @property
    def told_by_names(self) -> bool:
        return bool(self.column) and self.scale is None

    def draw(
        self,
        axes: Axes,
        across: NDArray[Any],
        heights: NDArray[Any],
        settings: NDArray[np.int64],
        shown: NDArray[np.bool_],
    ) -> None:
        """The trials that are ``shown`` in ``axes``, and their means."""
        for code, name in enumerate(self.names):
            here = shown & (self.codes == code)
            look = _look(code) if self.scale is None else {"color": "#333333"}
            if self.scale is None:
                axes.plot(across[here], heights[here], ls="", ms=6, alpha=0.85, label=_short(name), **look)
            else:
                axes.scatter(across[here], heights[here], s=36, alpha=0.9, lw=0, c=self._colours(here))
            _draw_means(axes, across[here], heights[here], settings[here], look["color"])

    def _colours(self, here: NDArray[np.bool_]) -> NDArray[Any]:
        """Those of a scale; grey where there is no number."""
        assert self.scale is not None
        colours = np.asarray(self.scale.to_rgba(np.nan_to_num(self.values[here])))
        colours[~np.isfinite(self.values[here])] = to_rgba("#BBBBBB")
        return colours


def is_named(frame: pd.DataFrame, column: str) -> bool:
    """Whether the values of ``column`` are told apart one by one: names, and inputs and whole numbers that are few."""
    values = frame[column]
    if not has_places(values):
        return True
    known = values.dropna().to_numpy(np.float64)
    whole = bool((known == np.round(known)).all())
    return (whole or column in frame.attrs.get("inputs", ())) and values.nunique(dropna=False) <= MOST_NAMES


def _trial_texts(drawn: pd.DataFrame, view: View) -> list[str]:
    """What each trial is: its height, and the inputs and the columns of the view that are not alike in all."""
    inputs = [name for name in drawn.attrs.get("inputs", ()) if name in drawn and drawn[name].nunique(dropna=False) > 1]
    others = [name for name in dict.fromkeys([view.x, view.colour, view.facet, *inputs]) if name not in (None, view.y)]
    columns = {name: texts(drawn[name]).tolist() for name in others if name is not None}
    return [
        "\n".join([f"{view.y} {height:.6g}", *(f"{name} {said[number]}" for name, said in columns.items())])
        for number, height in enumerate(drawn[view.y])
    ]


def _draw_means(
    axes: Axes, across: NDArray[Any], heights: NDArray[Any], settings: NDArray[np.int64], colour: str
) -> None:
    """Over trials at one place that only their seed tells apart: the mean and its 95% interval."""
    for place in np.unique(across):
        here = across == place
        if here.sum() > 1 and len(np.unique(settings[here])) == 1:
            mean, count = float(heights[here].mean()), int(here.sum())
            half = float(t.ppf(0.975, count - 1) * heights[here].std(ddof=1) / count**0.5)
            bar: dict[str, Any] = {"marker": "_", "ms": 18, "mew": 2.2, "capsize": 4, "color": colour, "zorder": 3}
            axes.errorbar([place], [mean], [half], ls="", label="_mean", **bar)


def _limit_height(axes: Axes, heights: NDArray[Any]) -> None:
    """Intervals, of two trials a dozen times as long as these are apart, do not make the points small."""
    low, high = float(heights.min()), float(heights.max())
    if low < high:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, low - (high - low) / 2), min(top, high + (high - low) / 2))


def _settings(frame: pd.DataFrame) -> NDArray[np.int64]:
    """A number for every combination of inputs, the seed aside."""
    inputs = [name for name in ("task", *frame.attrs.get("inputs", ())) if name in frame and name != "seed"]
    if not inputs:
        return np.arange(len(frame))
    return np.asarray(frame.groupby(inputs, dropna=False, observed=True).ngroup(), np.int64)


def _drawable(frame: pd.DataFrame, view: View) -> pd.DataFrame:
    """The rows that have a place; ``ValueError`` where there is none, or no height."""
    require_columns(frame, view.columns, "trials")
    drawn = frame[placed(frame, view)]
    require_columns(drawn, (), f"trials with {view.x} and {view.y}")
    if not pd.api.types.is_numeric_dtype(drawn[view.y]):
        raise ValueError(f"trials: {view.y!r} has no numbers, and only numbers have a height")
    return drawn


def placed(frame: pd.DataFrame, view: View) -> NDArray[np.bool_]:
    """Which rows have a place."""
    needed = [view.x, view.y] if has_places(frame[view.x]) else [view.y]
    return frame[needed].notna().all(axis=1).to_numpy()


def _look(code: int) -> dict[str, Any]:
    """Colour and marker of the series with that number."""
    return {"color": COLOURS[code % 7], "marker": MARKERS[(code + code // 7) % 7]}


def _name_places(axes: Axes, names: list[str], turned: bool) -> None:
    """Names side by side in place of numbers, ``turned`` where they are too long to stand upright."""
    looks: dict[str, Any] = {"rotation": 20, "ha": "right"} if turned else {}
    axes.set_xticks(range(len(names)), [_short(name) for name in names], fontsize=8, **looks)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _mark_places(axes: Axes, across: NDArray[Any], panels: int) -> None:
    """Marks of numbers, few enough for panels beside each other; by their logarithm where they span decades."""
    if across.min() > 0 and across.max() >= _DECADES * across.min():
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4 if panels > 1 else 8, prune="both" if panels > 1 else None))


_DECADES = 50  # times as large as the smallest: what is tried so far apart is tried by factors


def _fit(names: list[str], width: float, panels: int) -> bool:
    """Whether names can stand side by side below each of ``panels`` in a figure so wide."""
    room = (width - _LEFT - _RIGHT) / _columns(width, panels) / len(names)
    return 0.08 * max(len(_short(name)) for name in names) < room


def _label_axes(figure: Figure, view: View) -> None:
    width, height = figure.get_size_inches()
    figure.supxlabel(view.x, fontsize=9, y=0.1 / height)
    figure.supylabel(view.y, fontsize=9, x=0.1 / width)


def _draw_legend(figure: Figure, panel: Axes, title: str, columns: int) -> None:
    """The series of ``panel``, over all panels."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles[:MOST_NAMES],
        labels[:MOST_NAMES],
        title=title,
        alignment="left",
        ncols=columns,
        handletextpad=0.2,
        loc="upper left",
        bbox_to_anchor=(_LEFT / figure.get_figwidth(), 1.0),
        borderaxespad=0.0,
    )


def _draw_scale(figure: Figure, panels: list[Axes], series: _Series) -> None:
    """What the colours stand for, to the right of all panels."""
    assert series.scale is not None
    width, title = figure.get_figwidth(), series.column
    low = min(axes.get_position().y0 for axes in panels)
    high = max(axes.get_position().y1 for axes in panels)
    place = figure.add_axes((1 - (_SCALE - 0.12) / width, low, 0.13 / width, high - low))
    figure.colorbar(series.scale, cax=place)
    if not np.isfinite(series.values).all():
        place.set_xlabel("grey: none", fontsize=8)
    place.set_title(title if len(title) <= 12 else end_of(title, 22), fontsize=8, loc="right")


# Inches: margins, a line of the legend, and what a panel needs at least.
_LEFT, _RIGHT, _SCALE, _BOTTOM, _NAMES_BELOW, _TOP, _LINE = 0.9, 0.15, 0.85, 0.5, 0.9, 0.5, 0.2
_PANEL_WIDTH, _PANEL_HEIGHT, _LEAST_HEIGHT = 1.8, 1.5, 4.0


def _legend_shape(figure: Figure, names: list[str]) -> tuple[int, int]:
    """How many lines the legend over the panels takes, its title included, and in how many columns."""
    longest = max(len(_short(name)) for name in names)
    columns = max(1, int((figure.get_figwidth() - _LEFT) / (0.45 + 0.08 * longest)))
    return 1 + -(-len(names) // columns), columns


def _panels(figure: Figure, count: int, legend_lines: int, margins: tuple[float, float]) -> list[Axes]:
    """So many axes, with room for the lines of a legend above them, and ``margins`` below and to the right."""
    width, (below, right) = figure.get_figwidth(), margins
    columns = _columns(width, count)
    rows = -(-count // columns)
    above = _TOP + _LINE * legend_lines
    height = max(_LEAST_HEIGHT, below + above + rows * _PANEL_HEIGHT)
    if figure.get_figheight() != height:
        figure.set_size_inches(width, height)
    places = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    sides = {"left": _LEFT / width, "right": 1 - right / width, "bottom": below / height, "top": 1 - above / height}
    figure.subplots_adjust(**sides, wspace=0.1, hspace=0.35)
    for axes in places[count:]:
        axes.set_visible(False)
    for axes in places[max(0, count - columns) : count]:  # nothing stands below these
        axes.tick_params(labelbottom=True)
    return list(places[:count])


def _columns(width: float, panels: int) -> int:
    """How many panels stand side by side."""
    return max(1, min(3, panels, int((width - _LEFT) / _PANEL_WIDTH)))


def _across(values: pd.Series[Any]) -> tuple[NDArray[np.float64], list[str] | None]:
    if has_places(values):
        return values.to_numpy(np.float64), None
    codes, names = pd.factorize(texts(values))
    return codes.astype(np.float64), list(names)


def has_places(values: pd.Series[Any]) -> bool:
    """Whether they are numbers, which lie where they are."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def texts(values: pd.Series[Any]) -> pd.Series[str]:
    """What values are called; an input that was ``None`` is one of them.

    >>> texts(pd.Series([0.1 + 0.2, -1.9e-13, None])).tolist()
    ['0.3', '0', 'none']
    """
    return values.astype(object).where(values.notna(), NONE).map(text_of)


def text_of(value: Any) -> str:
    """A value as it is shown; of a number six digits, and what is left of 0 by rounding is 0."""
    if not isinstance(value, float):
        return str(value)
    return f"{0.0 if abs(value) < 1e-12 else value:.6g}"


def _names(frame: pd.DataFrame, column: str | None) -> list[str]:
    return [""] if column is None else list(dict.fromkeys(texts(frame[column])))


def _codes(frame: pd.DataFrame, column: str | None, names: list[str]) -> NDArray[np.int64]:
    if column is None:
        return np.zeros(len(frame), np.int64)
    places = {name: code for code, name in enumerate(names)}
    return np.array([places[name] for name in texts(frame[column])], np.int64)


def _title(facet: str, value: str, inches: float) -> str:
    """What a panel so wide is headed by: ``facet: value`` where it fits, else the value in two lines."""
    most = int(inches / 0.1)
    whole = f"{facet}: {value}"
    return whole if len(whole) <= most else "\n".join(filter(None, [value[:most], value[most : 2 * most]]))


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:10]}...{name[-9:]}"
