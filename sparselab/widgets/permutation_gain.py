"""What permuting the input channels wins back: run searches, watch them, stop them, compare them, keep an order."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import torch
import traitlets
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from sparselab.core.layers import LayerWeight
from sparselab.core.models import as_eager
from sparselab.core.patterns import Pattern
from sparselab.core.registry import unknown_name
from sparselab.network.named_axes import NetworkAxes
from sparselab.network.outputs import Outputs
from sparselab.permutation import STRATEGIES, SearchResult, warm_up
from sparselab.plots import matrices
from sparselab.saliency import ModelSaliency, for_layer
from sparselab.widgets import searches as logic
from sparselab.widgets.choosing import LayerChooser, PatternChooser, Ticks
from sparselab.widgets.job import Job
from sparselab.widgets.layers import choosable_layers, first_choice
from sparselab.widgets.panel import Picture, controls, numbers, pictures, wide
from sparselab.widgets.working import WorkingPanel, state_of

_MATRIX = "matrix"


class PermutationGain(WorkingPanel):
    """Choose a layer or an axis and strategies, run, and see efficacy against time, what moved where, what is lost less.

    ``model_or_matrix`` is a model, a weight, or a matrix ``(rows, channels)`` (torch or numpy). With ``example_inputs``,
    ``outputs`` and ``unreached`` as ``permute`` takes them, the model's axes can be chosen too: the channels that one order moves through all tensors,
    for all the weights that read them. State: ``layer`` (the weight's name, or the axis's, such as ``"0.weight:0"``),
    ``pattern`` (``"N:M"``), ``strategies``, ``seconds`` (for each search; 0: until it converges), ``seed``.
    ``run()`` starts in a thread, ``stop()`` ends it and keeps what was found, ``wait()`` waits. ``results`` are the
    ``SearchResult``s, ``best`` the one that retains the most, ``frame`` one row per search, ``figure`` their traces,
    ``order_figure`` the matrix before and after; ``save(path)`` keeps the best order (of an axis a ``Plan`` that moves the
    network). With a model, ``run_layers()`` searches all of it by the first strategy: ``layers_frame``; by axes where they
    are known, as ``permute`` does, else every layer by itself. Changes nothing in the model.
    """

    layer = traitlets.Unicode()
    pattern = traitlets.Unicode("2:4")
    strategies = traitlets.Tuple(("auto", "stripe_groups", "channel_swap"))
    seconds = traitlets.Float(2.0, min=0.0)
    seed = traitlets.Int(0, min=0)

    def __init__(
        self,
        model_or_matrix: nn.Module | torch.Tensor | NDArray[Any],
        pattern: str = "2:4",
        *,
        example_inputs: Any = None,
        outputs: Outputs | None = None,
        unreached: str = "refuse",
        layer: str | None = None,
        strategies: Sequence[str] = ("auto", "stripe_groups", "channel_swap"),
        saliency: ModelSaliency = "magnitude",
        seconds: float = 2.0,
        seed: int = 0,
    ) -> None:
        self._model = model_or_matrix if isinstance(model_or_matrix, nn.Module) else None
        self._saliency = saliency
        self._axes = None
        if self._model is not None and example_inputs is not None:
            self._axes = NetworkAxes.of(self._model, example_inputs, outputs=outputs, unreached=unreached)
        self._matrices = _choices(model_or_matrix, saliency, self._axes)
        self._matrix: tuple[tuple[str, str], logic.Matrix] | None = None
        self._traces: list[logic.Trace] = []
        self._network = logic.NetworkSearch()
        first = layer or (_MATRIX if self._model is None else first_choice(choosable_layers(self._model), pattern))
        self._about, self._status, self._best_line, self._layers_line = (numbers() for _ in range(4))
        self._traces_picture, self._consumers_picture, self._layers_picture = (Picture() for _ in range(3))
        self._order_picture, self._moves_picture = Picture(), Picture()
        self._make_controls(list(self._matrices), str(Pattern.parse(pattern)), strategies)
        self._ticks = Ticks("Strategies", list(dict.fromkeys([*logic.STRATEGIES, *strategies])))
        super().__init__(self._parts(), starters=[self._run, self._all], stopper=self._stop)
        self.layer, self.pattern, self.seconds, self.seed = first, str(Pattern.parse(pattern)), seconds, seed
        self.strategies = tuple(strategies)
        for name, control in self._controls.items():
            traitlets.link((self, name), (control, "value"))
        traitlets.link((self, "strategies"), (self._ticks, "value"))
        self.observe(self._forget, ["layer", "pattern"])
        self._forget()

    @property
    def results(self) -> list[SearchResult]:
        """Of the searches that have ended."""
        return [trace.result for trace in self._traces if trace.result is not None]

    @property
    def best(self) -> SearchResult | None:
        """The result that retains the most, or ``None`` before there is one."""
        return logic.best_of(self._traces)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per finished search: efficacy, lost before and after, the ideal, channels moved, seconds."""
        return logic.results_frame(self.matrix, self._traces)

    @property
    def layers_frame(self) -> pd.DataFrame:
        """One row per layer of what ``run_layers`` has searched: lost before, after, ideal (percent), efficacy."""
        return pd.DataFrame(list(self._network.rows), columns=list(logic.LAYER_COLUMNS))

    @property
    def matrix(self) -> logic.Matrix:
        """What is searched now. Raises ``ValueError`` for an axis that no order of can win anything."""
        key = (self.layer, self.pattern)
        if self._matrix is None or self._matrix[0] != key:
            matrix = self._matrices[self.layer](self.pattern)
            if matrix is None:
                raise ValueError(
                    f"nothing to win along {self.layer}: its channels fill no groups of {self.pattern} in a weight that "
                    "can be pruned so"
                )
            self._matrix = key, matrix
        return self._matrix[1]

    @property
    def figure(self) -> Figure:
        """Efficacy against time, one line per search."""
        return matrices.running_searches(logic.traces_frame(self._traces or [logic.Trace("no search yet")]))

    @property
    def order_figure(self) -> Figure:
        """The matrix before and after the best order, or as it is before there is one."""
        matrix, m = self.matrix, Pattern.parse(self.pattern).require_nm("this widget")[1]
        kept = np.arange(matrix.weights.shape[1])
        order = kept if self.best is None else self.best.order
        masks = (matrix.mask(kept, self.pattern), matrix.mask(order, self.pattern))
        return matrices.order_view(matrix.weights, order, masks, m)

    @property
    def layers_figure(self) -> Figure:
        """What every layer loses before and after."""
        return matrices.loss_strip(self.layers_frame, self.layer)

    def portrait(self) -> Figure:
        """The traces where there are any, else the matrix."""
        return self.figure if self._traces else self.order_figure

    def run(self) -> None:
        """Start the searches, one after the other, in a thread. ``ValueError`` where nothing can be searched."""
        self._require_idle()
        if not self.strategies:
            raise ValueError("no strategy is chosen: tick at least one")
        for name in self.strategies:
            STRATEGIES.resolve(name)
        matrix, pattern = self.matrix, self.pattern
        matrix.problem.check(pattern)
        traces = self._traces = []
        names, seconds, seed = self.strategies, self.seconds or None, self.seed

        def work(job: Job) -> None:
            for name in names:
                warm_up(name, pattern)
                job.check()
                traces.append(logic.Trace(name))
                logic.run_search(matrix, pattern, traces[-1], job.check, seconds=seconds, seed=seed)
                job.check()

        self._start(work, self._show_search)

    def run_layers(self) -> None:
        """Start a search of the whole network by the first strategy, in a thread."""
        self._require_idle()
        if self._model is None:
            raise ValueError("there is one matrix here, and no network whose layers could be searched")
        if not self.strategies:
            raise ValueError("no strategy is chosen: tick at least one")
        model, axes = self._model, self._axes
        found = self._network = logic.NetworkSearch()
        pattern, strategy, saliency, seed = self.pattern, self.strategies[0], self._saliency, self.seed

        def work(job: Job) -> None:
            warm_up(strategy, pattern)
            if axes is None:
                logic.search_layers(model, pattern, strategy, found, job.check, saliency=saliency, seed=seed)
            else:
                logic.search_axes(axes, pattern, strategy, found, job.check, saliency=saliency, seed=seed)

        self._start(work, self._show_layers)

    def save(self, path: str | Path) -> Path:
        """Keep the best order as JSON; ``ValueError`` before there is one."""
        if self.best is None:
            raise ValueError("there is no order to save yet: run a search first")
        return logic.save_order(path, self.matrix, self.best)

    @traitlets.validate("layer")
    def _known_layer(self, proposal: Any) -> str:
        if proposal["value"] not in self._matrices:
            raise unknown_name("layer", proposal["value"], self._matrices)
        return str(proposal["value"])

    def _make_controls(self, layers: list[str], pattern: str, strategies: Sequence[str]) -> None:
        plain = {"style": {"description_width": "initial"}}
        names = {name: self._label(name) for name in layers}
        self._controls: dict[str, ipywidgets.Widget] = {
            "layer": LayerChooser(names, "Layer or axis" if self._axes else "Layer", tooltip="What to permute"),
            "pattern": PatternChooser(logic.PATTERNS, pattern, _searched_text),
            "seconds": ipywidgets.BoundedFloatText(
                min=0, max=3600, step=0.5, description="Seconds each (0: until done)", **wide(layout={"width": "240px"})
            ),
            "seed": ipywidgets.BoundedIntText(
                min=0, max=2**31 - 1, description="Seed", **wide(layout={"width": "130px"})
            ),
        }
        button = ipywidgets.Button
        self._run = button(description="Run", button_style="primary", tooltip="Run the strategies that are ticked")
        self._stop = button(description="Stop", disabled=True, tooltip="End it, keep what was found")
        self._all = button(description="Whole network", tooltip="Search all of it by the first strategy ticked")
        self._save = button(description="Save order", disabled=True, tooltip="Write the best order as JSON")
        self._file = ipywidgets.Text("order.json", description="File", layout={"width": "220px"}, **plain)
        for press, action in (
            (self._run, self.run),
            (self._stop, self.stop),
            (self._all, self.run_layers),
            (self._save, self._save_clicked),
        ):
            press.on_click(self._answering(action))

    def _parts(self) -> list[ipywidgets.Widget]:
        wanted = ("layer", "pattern", "seconds", "seed")
        buttons = [self._run, self._stop, *([] if self._model is None else [self._all]), self._save, self._file]
        return [
            controls(*(self._controls[name] for name in wanted)),
            self._ticks,
            controls(*buttons),
            self._about,
            self._status,
            self._traces_picture,
            self._best_line,
            pictures(self._order_picture, self._moves_picture),
            self._consumers_picture,
            self._layers_line,
            self._layers_picture,
        ]

    def _label(self, name: str) -> str:
        if self._axes is None or name not in self._axes.named:
            return name.removesuffix(".weight")
        named = self._axes.named[name]
        return f"axis {name} ({named.axis.size} channels, read by {len(named.readers)})"

    def _save_clicked(self) -> None:
        self._status.value = f"Saved in {html.escape(str(self.save(self._file.value)))}."

    def _show_search(self, job: Job) -> None:
        traces = list(self._traces)
        if not traces:  # not begun yet, or another layer was chosen meanwhile
            compiling = job.running and not job.stopping
            self._status.value = "Compiling, once on this machine ..." if compiling else "Ready."
            return
        found = ", ".join(f"{trace.strategy} {trace.efficacy:.1f}" for trace in traces)
        self._traces_picture.show(self.figure, f"Efficacy against time: {found}")
        if not job.running:
            self._show_order()
            self._save.disabled = self.best is None
        self._status.value = f"{_doing(job, len(traces), len(self.strategies))} Efficacy: {html.escape(found)}."

    def _show_order(self) -> None:
        best = self.best
        if best is None:
            self._best_line.value = ""
        else:
            before, after, ideal = map(self.matrix.lost_percent, (best.baseline, best.retained, best.ideal))
            moved = logic.moved_percent(best.order, Pattern.parse(best.pattern).require_nm("an order")[1])
            self._best_line.value = (
                f"Best: <b>{html.escape(best.strategy)}</b>. Lost before <b>{before:.2f} %</b>, after <b>{after:.2f} %</b>, "
                f"ideal {ideal:.2f} %: efficacy <b>{best.efficacy:.1f}</b>. "
                f"{moved:.0f} % of the channels have new neighbours."
            )
            self._moves_picture.show(matrices.order_moves(best.order), "Where every channel went")
            if len(self.matrix.consumers) > 1:
                shared = matrices.loss_strip(
                    self.matrix.consumers_frame(best), title="Lost by the weights that share the order"
                )
                self._consumers_picture.show(shared, f"Lost by each weight that reads {self.layer}, before and after")
        self._order_picture.show(self.order_figure, f"{self.layer} before and after the best order")

    def _show_layers(self, job: Job) -> None:
        frame = self.layers_frame
        self._status.value = _doing(job, self._network.done, self._network.of)
        if frame.empty:
            return
        means = frame[["lost_percent", "permuted_lost_percent"]].mean()
        how = "orders shared as sl.permute does" if self._axes else "each by itself, so at most"
        self._layers_line.value = (
            f"Mean of {len(frame)} layers, {how}: lost <b>{means['lost_percent']:.2f} %</b> as trained, "
            f"<b>{means['permuted_lost_percent']:.2f} %</b> permuted."
        )
        self._layers_picture.show(self.layers_figure, "Magnitude lost by every layer before and after")

    def _forget(self, _: Any = None) -> None:
        """Another layer or pattern: what was found belongs to the one before."""
        self.stop()
        self._traces = []
        self._save.disabled = True
        self._best_line.value, self._about.value, self._status.value = "", "", "Ready."
        for picture in (self._traces_picture, self._moves_picture, self._consumers_picture):
            picture.clear()
        with self.problems_shown():
            self._about.value = html.escape(self.matrix.about)
            self.matrix.problem.check(self.pattern)
            self._show_order()
        if self.problem:
            self._order_picture.clear()


def _doing(job: Job, done: int, of: int) -> str:
    return f"{state_of(job)}, {done} of {of}, {job.seconds:.1f} s."


def _choices(
    model_or_matrix: nn.Module | torch.Tensor | NDArray[Any], saliency: ModelSaliency, axes: NetworkAxes | None
) -> dict[str, Callable[[str], logic.Matrix | None]]:
    """What can be searched, by name: a function of the pattern for each, called when it is chosen."""
    if not isinstance(model_or_matrix, (torch.Tensor, np.ndarray)):
        model = as_eager(model_or_matrix, "PermutationGain, if not a weight as a tensor or an array,")
        layers = {name: partial(_layer_matrix, layer, saliency) for name, layer in choosable_layers(model).items()}
        shared = (
            {name: partial(logic.Matrix.of_axis, axes, name, saliency=saliency) for name in axes.named} if axes else {}
        )
        return {**layers, **shared}
    weight = torch.as_tensor(model_or_matrix)
    if weight.ndim < 2:
        raise ValueError(f"a permutation needs a weight of at least 2 dimensions, got shape {tuple(weight.shape)}")
    if isinstance(saliency, Mapping):
        raise ValueError("a mapping of saliencies is for a model; give a matrix one saliency")
    return {_MATRIX: lambda _: logic.Matrix.of(_MATRIX, weight, 1, saliency)}


def _searched_text(pattern: str) -> str:
    """The text of a pattern that orders are searched for. Raises ``ValueError`` for another."""
    parsed = Pattern.parse(pattern)
    parsed.require_nm("this widget")
    return str(parsed)


def _layer_matrix(layer: LayerWeight, saliency: ModelSaliency, pattern: str) -> logic.Matrix:
    return logic.Matrix.of(layer.name, layer.weight, layer.channel_dim, for_layer(saliency, layer.name))
