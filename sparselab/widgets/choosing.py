"""Controls to choose with: one layer of hundreds, found by parts of its name, and some names of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets
import traitlets

from sparselab.core.layers import LayerWeight
from sparselab.masks import calculator
from sparselab.masks.eligibility import why_not
from sparselab.widgets.panel import LONG, as_problem, numbers, wide

FEW = 24
"""So many names are looked through without a search."""


def matching(names: Iterable[str], sought: str) -> list[str]:
    """Those of ``names`` that have every word of ``sought`` somewhere, in any case; all for no word.

    >>> matching(["layers.1.up", "layers.11.up", "layers.1.down"], "UP .1.")
    ['layers.1.up']
    """
    words = sought.lower().split()
    return [name for name in names if all(word in name.lower() for word in words)]


@contextmanager
def unlinked(link: traitlets.link) -> Iterator[None]:
    """While it lasts, nobody hears of a list whose options change: it chooses its first for a moment, which is nobody's choice."""
    link.unlink()
    try:
        yield
    finally:
        link.link()


class LayerChooser(ipywidgets.HBox):
    """A list of layers, and where there are many a field that finds some of them.

    ``labels`` has for each name what the list says. ``value`` is the name chosen. As words are typed into the field, those
    stay in the list that have all of them, and the one chosen; where one alone has them, it is chosen. A ``value`` set
    from outside that is not in the list brings all back.
    """

    value = traitlets.Unicode()

    def __init__(self, labels: Mapping[str, str], description: str = "Layer", tooltip: str = "") -> None:
        self._labels = dict(labels)
        plain = {"style": {"description_width": "initial"}, "layout": LONG}
        self._list = ipywidgets.Dropdown(
            options=self._options(self._labels), description=description, tooltip=tooltip, **plain
        )
        finding = wide(layout={"width": "230px"}) | {"continuous_update": True}
        self._find = ipywidgets.Text(description="Find", placeholder="parts of a name", **finding)
        self._count = ipywidgets.Label()
        many = len(self._labels) > FEW
        super().__init__([self._list, *([self._find, self._count] if many else [])])
        self.add_class("sparselab-controls")
        self._link = traitlets.link((self._list, "value"), (self, "value"))
        self._find.observe(self._sought, "value")
        self._say(len(self._labels))

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """What the list offers now: what it says, and the name."""
        return tuple(self._list.options)

    def relabel(self, labels: Mapping[str, str]) -> None:
        """Say ``labels`` of the same names."""
        self._labels = dict(labels)
        self._offer([name for _, name in self._list.options], self.value)

    @traitlets.validate("value")
    def _brought_back(self, proposal: Any) -> str:
        name = str(proposal["value"])
        if name in self._labels and name not in dict(map(reversed, self._list.options)):
            self._find.value = ""
        return name

    def _sought(self, change: Any) -> None:
        names = matching(self._labels, change["new"])
        self._say(len(names))
        chosen = names[0] if len(names) == 1 else self.value
        self._offer([name for name in self._labels if name in {*names, chosen}], chosen)

    def _offer(self, names: Sequence[str], chosen: str) -> None:
        if list(self._list.options) == self._options(names):
            self._list.value = chosen
            return
        with unlinked(self._link):
            self._list.options = self._options(names)
            self._list.value = chosen

    def _say(self, count: int) -> None:
        every = len(self._labels)
        if not self._find.value.strip():
            self._count.value = f"{every} in the list"
        elif count > 1:
            self._count.value = f"{count} of {every}: choose in the list"
        else:
            self._count.value = f"{count or 'none'} of {every}"

    def _options(self, names: Iterable[str]) -> list[tuple[str, str]]:
        return [(self._labels[name], name) for name in names]


def window_fields(steps: tuple[int, int], along: str) -> dict[str, ipywidgets.Widget]:
    """Fields for the first ``row`` and ``channel`` of a window, called ``along`` there, which ``steps`` move by its size."""
    says = {"row": "Window: row", "channel": along}
    return {
        name: ipywidgets.BoundedIntText(
            min=0, max=0, step=step, description=says[name], **wide(layout={"width": "160px"})
        )
        for name, step in zip(says, steps)
    }


def fit_window(fields: Mapping[str, ipywidgets.Widget], shape: tuple[int, int], window: tuple[int, int]) -> None:
    """Let a ``window`` of so many rows and channels go to the last ones of a matrix of ``shape``."""
    for name, of, seen in zip(("row", "channel"), shape, window):
        fields[name].max = max(0, of - seen)


class PatternChooser(ipywidgets.HBox):
    """A list of ``patterns``, and a field to type any other, which joins the list and is chosen.

    ``text_of`` gives the text that a pattern is known by, and raises ``ValueError`` for what is none:
    the reason is then said beside the field, and ``value`` stays.
    """

    value = traitlets.Unicode()

    def __init__(
        self, patterns: Sequence[str], value: str, text_of: Callable[[str], str], tooltip: str = "Keep N of M"
    ) -> None:
        self._text_of = text_of
        plain = {"style": {"description_width": "initial"}}
        options = list(dict.fromkeys([*patterns, value]))
        self._list = ipywidgets.Dropdown(
            options=options, value=value, description="Pattern", tooltip=tooltip, layout={"width": "190px"}, **plain
        )
        self._field = ipywidgets.Text(
            placeholder="m4n2_2d_best",
            description="or type",
            **wide(layout={"width": "190px"}),
        )
        self._problem = numbers()
        super().__init__([self._list, self._field, self._problem])
        self.add_class("sparselab-controls")
        traitlets.link((self._list, "value"), (self, "value"))
        self._field.observe(self._typed, "value")

    @property
    def options(self) -> tuple[str, ...]:
        """What the list offers now."""
        return tuple(self._list.options)

    @traitlets.validate("value")
    def _known(self, proposal: Any) -> str:
        text = self._text_of(proposal["value"])
        if text not in self._list.options:
            self._list.options = (*self._list.options, text)
        return text

    def _typed(self, change: Any) -> None:
        self._problem.value = ""
        if not change["new"].strip():
            return
        try:
            self.value = change["new"].replace(" ", "")
        except ValueError as error:
            self._problem.value = as_problem(str(error))
        else:
            self._field.value = ""


def layer_labels(layers: Mapping[str, LayerWeight], pattern: str) -> dict[str, str]:
    """What a list says of each of ``layers``: its module's name and its shape, and whether ``pattern`` cannot prune it."""
    calculate, labels = calculator(pattern), {}
    for name, layer in layers.items():
        size = " x ".join(map(str, layer.weight.shape))
        fits = why_not(layer.module, layer.attribute, calculate) is None
        labels[name] = f"{name.removesuffix('.weight')}  ({size}{'' if fits else f', not to {pattern}'})"
    return labels


class Ticks(ipywidgets.HBox):
    """Boxes to tick, one for each of ``names``. ``value`` are the names ticked, in the order in which they were."""

    value = traitlets.Tuple()

    def __init__(self, description: str, names: Sequence[str]) -> None:
        self.boxes = {
            name: ipywidgets.Checkbox(False, description=name, indent=False, layout={"width": "auto"}) for name in names
        }
        super().__init__([ipywidgets.Label(f"{description}:"), *self.boxes.values()])
        self.add_class("sparselab-controls")
        for box in self.boxes.values():
            box.observe(self._ticked, "value")
        self.observe(self._tick, "value")

    def _ticked(self, change: Any) -> None:
        name = change["owner"].description
        others = tuple(each for each in self.value if each != name)
        if change["new"] != (name in self.value):
            self.value = (*others, name) if change["new"] else others

    def _tick(self, _: Any) -> None:
        for name, box in self.boxes.items():
            box.value = name in self.value
