"""Any frame of a sweep: choose axes, colour, panels and a filter; click a point for its trial; live while it runs."""

from __future__ import annotations

import asyncio
import html
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd
import traitlets

from sparselab.core.paths import as_path
from sparselab.core.registry import unknown_name
from sparselab.plots import trials
from sparselab.plots.marks import Key
from sparselab.plots.style import Figure
from sparselab.plots.trials import View
from sparselab.sweeps import load
from sparselab.sweeps.background import RunningSweep
from sparselab.widgets import exploring as logic
from sparselab.widgets.choosing import unlinked
from sparselab.widgets.panel import Panel, controls, numbers, pictures, wide
from sparselab.widgets.picture import Picture

_NONE = "(none)"
_NO_TRIAL = [("(none: click a point)", -1)]
_BARS = " Bars: the mean over seeds and its 95% interval, which may go on beyond the picture."
_WIDTH = 640  # which a page that has less room makes smaller, and its texts stay readable


class SweepExplorer(Panel):
    """Explore ``df_or_store``: a frame of ``sl.experiment`` or ``sl.load``, or a sweep or its store, running or done.

    State: ``x``, ``y``, ``colour``, ``facet`` (columns; ``""`` for none), ``query`` (a pandas query that chooses rows) and
    ``trial``, the one chosen by a click on a point or in the list: its label in ``frame``, whose rows are numbered from 0
    before any is left out (-1: none). It stays chosen as long as the query leaves it in. ``frame`` is what is shown,
    ``figure`` its picture, ``width`` pixels wide. A store is read again by ``refresh()``, and in a notebook by itself
    whenever it has changed, until ``live`` is false.
    """

    x = traitlets.Unicode()
    y = traitlets.Unicode()
    colour = traitlets.Unicode("")
    facet = traitlets.Unicode("")
    query = traitlets.Unicode("")
    trial = traitlets.Int(-1, min=-1)
    width = traitlets.Int(_WIDTH, min=300, max=1000)
    live = traitlets.Bool(True)

    def __init__(
        self,
        df_or_store: pd.DataFrame | RunningSweep | str | Path,
        *,
        x: str | None = None,
        y: str | None = None,
        colour: str | None = None,
        facet: str | None = None,
        query: str = "",
        interval: float = 2.0,
    ) -> None:
        source = df_or_store.store if isinstance(df_or_store, RunningSweep) else df_or_store
        self._store = None if isinstance(source, pd.DataFrame) else as_path(source, "SweepExplorer")
        self._all = _numbered(source if isinstance(source, pd.DataFrame) else load(source))
        self._changed = logic.changed(self._store) if self._store else 0.0
        self._interval = interval
        logic.first_view(self._all)  # raises where there is nothing to draw
        self._status, self._details = numbers(), numbers()
        self._picture = Picture(self._choose)
        self._make_controls()
        self._asked = {"x": x, "y": y, "colour": colour, "facet": facet}
        super().__init__(self._parts())
        self.query = query
        self._begin()
        self._links = {
            name: traitlets.link((self, name), (control, "value")) for name, control in self._controls.items()
        }
        self.observe(self._redraw, ["x", "y", "colour", "facet", "query", "trial", "width"])
        self._redraw()
        if self._store is not None:
            self._watch()

    def _begin(self) -> None:
        """Show what is asked for, else what is worth a first look; nothing before the first trial is done.

        Raises ``ValueError`` for a column that is asked for and cannot be chosen; in a store a column that has one value may
        have others soon.
        """
        first = logic.first_view(self._all)
        view = {"x": first.x, "y": first.y, "colour": first.colour or "", "facet": ""}
        asked = {name: column for name, column in self._asked.items() if column is not None and len(self._all)}
        self._waiting = [column for name, column in asked.items() if self._may_be_offered(name, column)]
        for name, column in asked.items():
            if column and column not in self._waiting:
                self._require_offered(name, column)
        view |= {name: column for name, column in asked.items() if column not in self._waiting}
        self.x, self.y, self.colour, self.facet = view.values()
        self._begun = self.view

    @property
    def frame(self) -> pd.DataFrame:
        """The rows that are shown. Raises ``ValueError`` for a query that pandas does not understand."""
        return logic.filtered(self._all, self.query)

    @property
    def figure(self) -> Figure:
        """The picture of the rows shown."""
        return trials.trials(self.frame, self.view, chosen=self.trial, width=self.width / 100)

    @property
    def view(self) -> View:
        """Which column goes where."""
        return View(self.x, self.y, self.colour or None, self.facet or None)

    def portrait(self) -> Figure | None:
        """The picture, once a trial is done and the filter leaves one."""
        return self.figure if len(self._all) and len(self.frame) else None

    def refresh(self) -> None:
        """Read the store again, where there is one."""
        if self._store is None:
            return
        with self.problems_shown():
            self._changed = logic.changed(self._store)
            untouched, key = self.view == self._begun, self._key_of(self.trial)
            self._all = _numbered(load(self._store))
            self._offer()
            self._offer_trials(self._all, self._number_of(key))
            if untouched:  # of the first trials of a sweep nobody can tell which inputs will vary
                self._begin()
        if not self.problem:
            self._redraw()

    def _make_controls(self) -> None:
        plain = {"style": {"description_width": "initial"}, "layout": {"width": "225px"}}
        dropdown = ipywidgets.Dropdown
        self._controls: dict[str, ipywidgets.Widget] = {
            "y": dropdown(description="Up", tooltip="Column of the vertical axis", **plain),
            "x": dropdown(description="Across", tooltip="Column of the horizontal axis", **plain),
            "colour": dropdown(description="Colour", tooltip="Column that colours points", **plain),
            "facet": dropdown(description="Panels", tooltip="Column with a panel for each value", **plain),
            "query": ipywidgets.Text(description="Filter", **wide(layout={"width": "350px"})),
            "trial": dropdown(
                options=_NO_TRIAL,
                description="Trial",
                tooltip="What is told in full: click a point, or choose here",
                style=plain["style"],
                layout={"width": "340px"},
            ),
            "width": ipywidgets.BoundedIntText(
                min=300,
                max=1000,
                step=100,
                description="Width",
                tooltip="Of the picture, in pixels",
                **wide(layout={"width": "130px"}),
            ),
            "live": ipywidgets.Checkbox(description="follow the store", indent=False, layout={"width": "auto"}),
        }
        self._offer()

    def _offered(self, name: str) -> list[str]:
        """The columns that can be chosen as ``name``; ``""`` is none."""
        return [option[1] if isinstance(option, tuple) else option for option in self._controls[name].options]

    def _may_be_offered(self, name: str, column: str) -> bool:
        """Whether a ``column`` that cannot be chosen as ``name`` may be so after more trials."""
        return self._store is not None and column in self._all and column not in self._offered(name)

    def _require_offered(self, name: str, column: str) -> None:
        """Raise ``ValueError`` for a ``column`` that cannot be chosen as ``name``."""
        if column not in self._offered(name):
            raise unknown_name(f"column for {name}", column, filter(None, self._offered(name)))

    def _offer(self) -> None:
        """Fill the choices with the columns that there are."""
        self._controls["query"].placeholder = logic.example(self._all)
        names, colours = (
            [(_NONE, ""), *((name, name) for name in columns(self._all))]
            for columns in (logic.name_columns, logic.colour_columns)
        )
        offered: dict[str, list[Any]] = {
            "y": logic.height_columns(self._all) if len(self._all) else [(_NONE, "")],
            "x": logic.across_columns(self._all) if len(self._all) else [(_NONE, "")],
            "colour": colours,
            "facet": names,
        }
        for name, options in offered.items():
            control, value = self._controls[name], getattr(self, name)
            if list(control.options) != list(options):
                control.options = options
                if value in self._offered(name):
                    control.value = value

    def _offer_trials(self, frame: pd.DataFrame, chosen: int) -> None:
        """Let the trials of ``frame`` be chosen; the one that is stays so if it is among them."""
        control, options = self._controls["trial"], [*_NO_TRIAL, *logic.trial_labels(frame, self._all)]
        with unlinked(self._links["trial"]):
            if list(control.options) != options:
                control.options = options
            control.value = self.trial = chosen if chosen in frame.index else -1

    def _key_of(self, trial: int) -> Any:
        """What tells a trial of a store from all others, whatever its number is."""
        return self._all.loc[trial, "key"] if trial in self._all.index and "key" in self._all else None

    def _number_of(self, key: Any) -> int:
        """The number of the trial with ``key``; -1 where there is none."""
        found = [] if key is None else self._all.index[self._all["key"] == key].tolist()
        return int(found[0]) if found else -1

    def _parts(self) -> list[ipywidgets.Widget]:
        shown = ["query", "trial", "width", *(["live"] if self._store is not None else [])]
        return [
            controls(*(self._controls[name] for name in ("y", "x", "colour", "facet"))),
            controls(*(self._controls[name] for name in shown)),
            self.problem_line,
            self._status,
            pictures(self._picture, self._details),
        ]

    def _redraw(self, _: Any = None) -> None:
        if not len(self._all):
            self._status.value = "No trial is done yet."
            return
        with self.problems_shown():
            frame = self.frame
            self._offer_trials(frame, self.trial)
            has_bars = self._draw(frame)
            nowhere = f" None of them has {html.escape(self.y)}, and a place." if self._nowhere(frame) else ""
            self._status.value = self._counts(frame) + _BARS * has_bars + nowhere
            self._details.value = logic.trial_table(frame, self.trial)
        if self.problem:
            self._picture.clear()
            self._status.value = self._details.value = ""

    def _counts(self, frame: pd.DataFrame) -> str:
        failed = int((frame["state"] == "failed").sum()) if "state" in frame else 0
        waiting = (
            f" {html.escape(column)} has one value so far: it is shown once it has more." for column in self._waiting
        )
        planned = logic.planned(self._all)
        done = f" done so far, of {planned}" if planned > len(self._all) else ""
        return f"<b>{len(frame)}</b> of {len(self._all)} trials{done}, {failed} failed.{''.join(waiting)}"

    def _nowhere(self, frame: pd.DataFrame) -> bool:
        """Whether there are trials, and none can be drawn: all of them failed, say."""
        return len(frame) > 0 and not trials.placed(frame, self.view).any()

    def _draw(self, frame: pd.DataFrame) -> bool:
        """Show the trials of ``frame``; whether there are bars."""
        if frame.empty or self._nowhere(frame):
            self._picture.clear()
            return False
        width = self.width / 100
        figure = trials.trials(frame, self.view, chosen=self.trial, width=width)
        said = f"{self.y} against {self.x} of {len(figure.marks)} trials"
        figure.marks = [replace(mark, key=int(frame.index[int(mark.key)])) for mark in figure.marks]
        self._picture.show(figure, said, zoom="xy", of=(self.view, self.query, width), chosen=self.trial)
        return any(axes.containers for axes in figure.axes)

    def _choose(self, trial: Key) -> None:
        """A point is clicked; the one that is chosen already, and none is."""
        self.trial = -1 if trial == self.trial else int(trial)

    def _watch(self) -> None:
        """Look whether the store has changed, now and then, where there is an event loop to do it in."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        if self.comm is None:  # closed
            return
        assert self._store is not None
        if self.live and logic.changed(self._store) != self._changed:
            self.refresh()
        self._watch()


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with its rows numbered from 0: of two frames put together two rows may have one label."""
    return frame.reset_index(drop=True)
