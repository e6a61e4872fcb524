"""What every widget of the lab is made of, beside its pictures: rows of controls, tabs, numbers, a line for errors."""

from __future__ import annotations

import asyncio
import base64
import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import ipywidgets
import pandas as pd
import traitlets

from sparselab.plots.style import Figure, to_png

_STYLE = """<style>
.sparselab { max-width: 1060px; }
.sparselab .sparselab-controls { flex-wrap: wrap; gap: 2px 14px; }
.sparselab .sparselab-pictures { flex-wrap: wrap; }
.sparselab .sparselab-pictures > .sparselab-column { flex: 1 1 330px; max-width: 100%; }
.sparselab .sparselab-controls > .sparselab-numbers { flex: 1 1 300px; }
.sparselab .jupyter-widgets.widget-tab > .lm-TabBar .lm-TabBar-tab { color: var(--jp-content-font-color1, #111); }
.sparselab .jupyter-widgets.widget-tab > .widget-tab-contents { padding: 8px; background: var(--jp-layout-color0, transparent); }
.sparselab .sparselab-numbers .widget-html-content { line-height: 1.5; color: var(--jp-content-font-color1, #111); }
.sparselab .sparselab-numbers b { font-variant-numeric: tabular-nums; }
.sparselab .sparselab-problem .widget-html-content { line-height: 1.5; }
.sparselab .sparselab-problem { color: #B00020; font-weight: 600; }
.sparselab .sparselab-numbers table { line-height: 1.25; border-spacing: 0 2px; }
.sparselab .sparselab-numbers th { text-align: left; padding-right: 1em; }
.sparselab :focus-visible { outline: 2px solid #0072B2; outline-offset: 1px; }
body[data-jp-theme-light="false"] .sparselab .sparselab-problem { color: #FF8A80; }
</style>"""


def in_words(error: BaseException) -> str:
    """What went wrong, for a reader: the message of a ``ValueError``, others with the name of their kind."""
    text = str(error)
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


class Panel(ipywidgets.VBox):
    """The frame of a widget: its state is in traits, ``frame`` and ``figure`` are what it shows, for use without clicking.

    ``problem`` is what went wrong, in words; empty when nothing did. ``problem_line`` says it: a widget has it among its
    ``children``, next to the controls that it is about.
    """

    problem = traitlets.Unicode("")

    def __init__(self, children: Sequence[ipywidgets.Widget], **options: Any) -> None:
        super().__init__([ipywidgets.HTML(_STYLE, layout={"display": "none"}), *children], **options)
        self.add_class("sparselab")
        self.observe(self._show_problem, "problem")

    @cached_property
    def problem_line(self) -> ipywidgets.HTML:
        """What went wrong; as long as nothing did, nothing, which takes no room."""
        line = ipywidgets.HTML(layout={"display": "none"})
        line.add_class("sparselab-problem")
        return line

    @property
    def frame(self) -> pd.DataFrame:
        """The table behind the pictures."""
        raise AttributeError(f"{type(self).__name__} has no frame")

    @property
    def figure(self) -> Figure:
        """The picture as it is now."""
        raise AttributeError(f"{type(self).__name__} has no figure")

    def portrait(self) -> Figure | None:
        """What stands for the widget where it is not alive; ``None`` as long as there is nothing to draw."""
        return self.figure

    @contextmanager
    def problems_shown(self) -> Iterator[None]:
        """Errors raised inside are shown in the widget, in words, instead of being lost in the server's log."""
        try:
            yield
        except Exception as error:
            self.problem = in_words(error)
        else:
            self.problem = ""

    def _show_problem(self, change: dict[str, Any]) -> None:
        text = html.escape(change["new"])
        self.problem_line.value = f'<span role="alert">{text}</span>' if text else ""
        self.problem_line.layout.display = None if text else "none"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live widget, and a picture of it for readers of the notebook elsewhere."""
        bundle = super()._repr_mimebundle_(**options)
        with self.problems_shown():
            if (portrait := self.portrait()) is not None:
                bundle["image/png"] = base64.b64encode(to_png(portrait)).decode()
        return bundle


def as_problem(text: str) -> str:
    """``text`` as a line says it that something is wrong."""
    return f'<span class="sparselab-problem" role="alert">{html.escape(text)}</span>'


def controls(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """Controls side by side, going on in another line where there is no more room."""
    box = ipywidgets.HBox(widgets)
    box.add_class("sparselab-controls")
    return box


def pictures(*shown: ipywidgets.Widget) -> ipywidgets.HBox:
    """Pictures side by side, one below the other where there is no room."""
    box = ipywidgets.HBox(shown)
    box.add_class("sparselab-pictures")
    return box


def column(*parts: ipywidgets.Widget) -> ipywidgets.VBox:
    """Parts one below the other, as wide as the widest of them."""
    box = ipywidgets.VBox(parts)
    box.add_class("sparselab-column")
    return box


def tabs(**parts: ipywidgets.Widget) -> ipywidgets.Tab:
    """What is looked at in turn, each under its title; ``_`` stands for a space."""
    return ipywidgets.Tab(list(parts.values()), titles=[title.replace("_", " ") for title in parts])


def numbers() -> ipywidgets.HTML:
    """A line of numbers."""
    line = ipywidgets.HTML()
    line.add_class("sparselab-numbers")
    return line


def soon(call: Callable[[], None]) -> None:
    """Call once the answer to what the reader did is out; at once where there is no event loop."""
    try:
        asyncio.get_running_loop().call_soon(call)
    except RuntimeError:
        call()


LONG = {"width": "500px", "max_width": "98%"}
"""The layout of a control that holds long names."""


def wide(**options: Any) -> dict[str, Any]:
    """The keywords of a control whose description is not cut off."""
    return {"style": {"description_width": "initial"}, "continuous_update": False, **options}
