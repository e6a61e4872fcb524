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
from numpy.typing import NDArray
from torch import nn

from sparselab.core.layers import LayerWeight
from sparselab.core.models import as_eager
from sparselab.core.patterns import Pattern
from sparselab.core.registry import unknown_name
from sparselab.masks import AnyPattern, searched_pattern
from sparselab.masks.eligibility import why_not
from sparselab.network.named_axes import NetworkAxes
from sparselab.network.outputs import Outputs
from sparselab.network.plan import Plan
from sparselab.permutation import STRATEGIES, SearchResult, warm_up
from sparselab.permutation.judges import judge_of
from sparselab.plots import matrices, strips
from sparselab.plots.marks import Key
from sparselab.plots.style import Figure
from sparselab.saliency import ModelSaliency
from sparselab.widgets import searches as logic
from sparselab.widgets.choosing import LayerChooser, PatternChooser, Ticks, fit_window, layer_labels, window_fields
from sparselab.widgets.job import Job
from sparselab.widgets.layers import choosable_layers, first_choice, require_names
from sparselab.widgets.panel import as_problem, column, controls, in_words, numbers, pictures, tabs, wide
from sparselab.widgets.picture import Picture
from sparselab.widgets.working import WorkingPanel, each_of, require_none_failed, state_of

_MATRIX = "matrix"
_WINDOW = matrices.WINDOW[0], matrices.BESIDE
_NONE_TICKED = "No strategy is ticked."


class PermutationGain(WorkingPanel):
    """Choose a layer or an axis and strategies, run, and see efficacy against time, what every group loses less.

    ``model_or_matrix`` is a model, a weight, or a matrix ``(rows, channels)`` (torch or numpy). With ``example_inputs``,
    ``outputs`` and ``unreached`` as ``permute`` takes them, the model's axes can be chosen too: the channels that one order moves through all tensors,
    for all the weights that read them. State: ``layer`` (the weight's name, or the axis's, such as ``"0.weight:0"``),
    ``pattern`` (``"N:M"``), ``strategies``, ``seconds`` (for each search; 0: until it converges), ``seed``, and where the
    window onto the weights stands: ``row``, ``channel`` (a place, before and after).
    ``run()`` starts in a thread, ``stop()`` ends it and keeps what was found, ``wait()`` waits. ``results`` are the
    ``SearchResult``s, ``best`` the one that retains the most, ``frame`` one row per search, ``figure`` their traces,
    ``groups_figure`` what every group loses before and after, ``order_figure`` the window before and after. ``plan``
    moves the network by the best order, of a layer by re-indexing its input, and ``save(path)`` writes it. With a model, ``run_layers()`` searches all of it by
    the first strategy, ``seconds`` for each: ``layers_frame``, ``network_plan``, ``save_network(path)``; by axes where they
    are known, as ``permute`` does, else every layer by itself. Changes nothing in the model.
    """

    layer = traitlets.Unicode()
    pattern = traitlets.Unicode("2:4")
    strategies = traitlets.Tuple(("auto", "stripe_groups", "channel_swap"))
    seconds = traitlets.Float(2.0, min=0.0)
    seed = traitlets.Int(0, min=0)
    row = traitlets.Int(0, min=0)
    channel = traitlets.Int(0, min=0)

    def __init__(
        self,
        model_or_matrix: nn.Module | torch.Tensor | NDArray[Any],
        pattern: AnyPattern = "2:4",
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
        pattern = _searched_text(pattern)
        require_names("strategy", strategies, "sparselab.permutation.STRATEGIES")
        for name in strategies:
            STRATEGIES.resolve(name)
        self._model = model_or_matrix if isinstance(model_or_matrix, nn.Module) else None
        self._saliency = saliency
        self._axes = None
        if self._model is not None and example_inputs is not None:
            self._axes = NetworkAxes.of(self._model, example_inputs, outputs=outputs, unreached=unreached)
        self._matrices = _choices(model_or_matrix, saliency, self._axes)
        self._layers = {} if self._model is None else choosable_layers(self._model)
        self._fits = True
        self._matrix: tuple[tuple[str, str], logic.Matrix] | None = None
        self._traces: list[logic.Trace] = []
        self._network = logic.NetworkSearch()
        self._network_job: Job | None = None
        first = layer or (_MATRIX if self._model is None else first_choice(self._layers, pattern))
        self._about, self._status, self._best_line, self._layers_line = (numbers() for _ in range(4))
        self._saved, self._network_saved = numbers(), numbers()
        self._traces_picture, self._groups_picture, self._order_picture = (Picture() for _ in range(3))
        self._consumers_picture, self._layers_picture = Picture(self._choose), Picture(self._choose)
        self._make_controls(list(self._matrices), pattern, strategies)
        self._ticks = Ticks("Strategies", list(dict.fromkeys([*logic.STRATEGIES, *strategies])))
        super().__init__(self._parts(), starters=[self._run, self._all], stopper=self._stop)
        self.layer, self.pattern, self.seconds, self.seed = first, pattern, seconds, seed
        self.strategies = tuple(strategies)
        for name, control in self._controls.items():
            traitlets.link((self, name), (control, "value"))
        traitlets.link((self, "strategies"), (self._ticks, "value"))
        self.observe(self._forget, ["layer", "pattern"])
        self.observe(self._moved, ["row", "channel"])
        self.observe(self._ticked, "strategies")
        self._forget({"name": "layer"})

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
        """One row per layer of what ``run_layers`` has searched: lost before, after, ideal (percent), efficacy, saliency."""
        return self._network.frame

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
    def groups_figure(self) -> Figure:
        """What every group of channels loses, as trained and in the best order."""
        frames = (self.matrix.groups_frame(order, self.pattern) for order in (self._as_trained, self._best_order))
        return strips.group_losses(*frames)

    @property
    def order_figure(self) -> Figure:
        """The matrix before and after the best order, or as it is before there is one."""
        matrix, m = self.matrix, Pattern.parse(self.pattern).require_nm("this widget")[1]
        masks = (matrix.mask(self._as_trained, self.pattern), matrix.mask(self._best_order, self.pattern))
        return matrices.order_view(matrix.weights, self._best_order, masks, m, row=self.row, channel=self.channel)

    @property
    def layers_figure(self) -> Figure:
        """Points that every layer gains, the largest gain first, the ideal as the limit."""
        return strips.gain_strip(self.layers_frame, self.layer)

    @property
    def plan(self) -> Plan:
        """What the best order means for the network. ``ValueError`` before there is one, and where nothing can follow it."""
        if self.best is None:
            raise ValueError("there is no order to save yet: run a search first")
        return self.matrix.plan(self.best.order)

    @property
    def network_plan(self) -> Plan:
        """What ``run_layers`` has found, in one plan. ``ValueError`` before there is anything."""
        if not self._network.plans:
            raise ValueError("there is no plan of the network to save yet: search the whole network first")
        return self._network.plan

    @property
    def _as_trained(self) -> NDArray[np.int64]:
        return np.arange(self.matrix.weights.shape[1])

    @property
    def _best_order(self) -> NDArray[np.int64]:
        return self._as_trained if self.best is None else self.best.order

    def portrait(self) -> Figure | None:
        """The traces where there are any, else a window of the matrix."""
        if self._traces:
            return self.figure
        mask, m = (
            self.matrix.mask(self._as_trained, self.pattern),
            Pattern.parse(self.pattern).require_nm("this widget")[1],
        )
        return matrices.mask_window(self.matrix.weights, mask, m)

    def run(self) -> None:
        """Start the searches, one after the other, in a thread. ``ValueError`` where nothing can be searched."""
        self._require_idle()
        if not self.strategies:
            raise ValueError("no strategy is chosen: tick at least one")
        for name in self.strategies:
            STRATEGIES.resolve(name)
        self._require_groups()
        matrix, pattern = self.matrix, self.pattern
        self._clear_search()
        traces = self._traces
        names, seconds, seed = self.strategies, self.seconds or None, self.seed

        def work(job: Job) -> None:
            def search(name: str) -> None:
                warm_up(name, pattern)
                job.check()
                traces.append(logic.Trace(name))
                try:
                    logic.run_search(matrix, pattern, traces[-1], job.check, seconds=seconds, seed=seed)
                except Exception:
                    del traces[-1]  # it found nothing that could be compared
                    raise
                job.check()

            require_none_failed(each_of(names, search, job.check))

        self._tabs.selected_index = 0
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
        pattern, strategy = self.pattern, self.strategies[0]
        options: dict[str, Any] = {"saliency": self._saliency, "seconds": self.seconds or None, "seed": self.seed}

        def work(job: Job) -> None:
            warm_up(strategy, pattern)
            if axes is None:
                logic.search_layers(model, pattern, strategy, found, job.check, **options)
            else:
                logic.search_axes(axes, pattern, strategy, found, job.check, **options)

        self._tabs.selected_index = len(self._tabs.children) - 1
        self._start(work, self._show_layers)
        self._network_job = self._job

    def save(self, path: str | Path) -> Path:
        """Write ``plan`` for ``sl.Plan.load``; returns the path. ``ValueError`` as ``plan`` raises it."""
        self.plan.save(path)
        return Path(path)

    def save_network(self, path: str | Path) -> Path:
        """Write ``network_plan`` for ``sl.Plan.load``; returns the path. ``ValueError`` before there is one."""
        self.network_plan.save(path)
        return Path(path)

    @traitlets.validate("layer")
    def _known_layer(self, proposal: Any) -> str:
        if proposal["value"] not in self._matrices:
            raise unknown_name("layer", proposal["value"], self._matrices)
        return str(proposal["value"])

    def _make_controls(self, layers: list[str], pattern: str, strategies: Sequence[str]) -> None:
        names = self._labels(pattern)
        self._controls: dict[str, ipywidgets.Widget] = {
            "layer": LayerChooser(names, "Layer or axis" if self._axes else "Layer", tooltip="What to permute"),
            "pattern": PatternChooser(logic.PATTERNS, pattern, _searched_text),
            "seconds": ipywidgets.BoundedFloatText(
                min=0, max=3600, step=0.5, description="Seconds each (0: until done)", **wide(layout={"width": "240px"})
            ),
            "seed": ipywidgets.BoundedIntText(
                min=0, max=2**31 - 1, description="Seed", **wide(layout={"width": "130px"})
            ),
            **window_fields(_WINDOW, "place"),
        }
        self._make_buttons()

    def _make_buttons(self) -> None:
        button, text = ipywidgets.Button, ipywidgets.Text
        self._run = button(description="Run", button_style="primary", tooltip="Run the strategies that are ticked")
        self._stop = button(description="Stop", disabled=True, tooltip="End it, keep what was found")
        self._all = button(description="Whole network", tooltip="Search all of it by the first strategy ticked")
        self._save = button(description="Save order", disabled=True, tooltip="Write the best order as a plan")
        self._save_all = button(description="Save plan", disabled=True, tooltip="Write what was found for all of it")
        named: dict[str, Any] = {"style": {"description_width": "initial"}, "layout": {"width": "220px"}}
        self._file = text("order.json", description="Order to", **named)
        self._network_file = text("plan.json", description="Plan to", **named)
        for press, action in (
            (self._run, self.run),
            (self._stop, self.stop),
            (self._all, self.run_layers),
        ):
            press.on_click(self._answering(action))
        self._save.on_click(lambda _: _say_saved(self._saved, self.save, self._file.value))
        self._save_all.on_click(lambda _: self._save_network_clicked())

    def _parts(self) -> list[ipywidgets.Widget]:
        wanted = ("layer", "pattern", "seconds", "seed")
        searched = column(
            pictures(self._traces_picture, self._groups_picture),
            self._best_line,
            controls(self._save, self._file, self._saved),
        )
        window = controls(self._controls["row"], self._controls["channel"])
        shown = {"Search": searched, "Weights": column(window, self._order_picture, self._consumers_picture)}
        if self._model is not None:
            saved = controls(self._save_all, self._network_file, self._network_saved)
            shown["All_layers"] = column(self._layers_picture, self._layers_line, saved)
        self._tabs = tabs(**shown)
        started = [self._run, *([] if self._model is None else [self._all]), self._stop, self._status]
        return [
            controls(*(self._controls[name] for name in wanted)),
            self._ticks,
            self._about,
            controls(*started),
            self.problem_line,
            self._tabs,
        ]

    def _labels(self, pattern: str) -> dict[str, str]:
        """What the list says of each layer and axis."""
        named = {} if self._axes is None else self._axes.named
        layers = layer_labels(self._layers, pattern)
        axes = {
            name: f"{name}  (axis of {each.axis.size} channels, read by {len(each.readers)})"
            for name, each in named.items()
        }
        return {name: name for name in self._matrices} | layers | axes

    def _require_groups(self) -> None:
        """Raise ``ValueError`` where the pattern cannot prune what is chosen."""
        layer, (_, m) = self._layers.get(self.layer), Pattern.parse(self.pattern).require_nm("this widget")
        channels = self.matrix.weights.shape[1]
        if layer is not None and (reason := why_not(layer.module, layer.attribute, self.pattern)):
            raise ValueError(f"{self.layer} cannot be pruned to {self.pattern}: {reason}")
        if channels % m:
            raise ValueError(
                f"{self.layer} cannot be pruned to {self.pattern}: {channels} channels are no multiple of {m}"
            )
        self.matrix.problem.check(self.pattern)

    def _choose(self, layer: Key) -> None:
        """A bar is clicked."""
        with self.problems_shown():
            self.layer = str(layer)

    def _save_network_clicked(self) -> None:
        _say_saved(self._network_saved, self.save_network, self._network_file.value)
        if left := "; ".join(f"{name}: {reason}" for name, reason in self._network.left_out.items()):
            self._network_saved.value += html.escape(f" Left out are {left}.")

    def _show_search(self, job: Job) -> None:
        state, traces = state_of(job), list(self._traces)  # as they are now: the search goes on while this is drawn
        if not traces:  # not begun yet, or another layer was chosen meanwhile
            self._traces_picture.clear()
            compiling = state == "Running" and not job.stopping
            self._status.value = "Compiling, once on this machine ..." if compiling else "Ready."
            return
        found = ", ".join(f"{trace.strategy} {trace.efficacy:.1f}" for trace in traces)
        said = f"Efficacy against time: {found}"
        self._traces_picture.show(self.figure, said, zoom="xy", of=(job, state))
        if state != "Running":
            self._show_order()
            self._save.disabled = self.best is None
        doing = _doing(state, job, len(traces), len(self.strategies))
        self._status.value = f"{doing} Efficacy: {html.escape(found)}."

    def _show_order(self) -> None:
        best = self.best
        if best is None:
            return
        before, after, ideal = map(self.matrix.lost_percent, (best.baseline, best.retained, best.ideal))
        moved = logic.moved_percent(best.order, Pattern.parse(best.pattern).require_nm("an order")[1])
        self._best_line.value = (
            f"Best: <b>{html.escape(best.strategy)}</b>. Lost before <b>{before:.2f} %</b>, after <b>{after:.2f} %</b>, "
            f"ideal {ideal:.2f} %: efficacy <b>{best.efficacy:.1f}</b>. "
            f"{moved:.0f} % of the channels have new neighbours."
        )
        said = (
            f"Lost by every group of channels, before ({before:.2f} % of all) and after the best order ({after:.2f} %)"
        )
        self._groups_picture.show(self.groups_figure, said, zoom="x")
        if len(self.matrix.consumers) > 1:
            title = "Lost by the weights that share the order"
            shared = strips.loss_strip(self.matrix.consumers_frame(best), title=title)
            said = f"Lost by each weight that reads {self.layer}, before and after"
            self._consumers_picture.show(shared, said, zoom="x")
        self._show_window()

    def _show_window(self) -> None:
        at = f"from row {self.row} and place {self.channel} on"
        self._order_picture.show(self.order_figure, f"{self.layer} {at}, before and after the best order")

    def _moved(self, _: Any) -> None:
        """The window is somewhere else."""
        if self.best is not None and not self.running:
            self._show_window()

    def _ticked(self, _: Any) -> None:
        self._set_buttons()
        if not self.running and (not self.strategies or self._status.value == _NONE_TICKED):
            self._status.value = "Ready." if self.strategies else _NONE_TICKED

    def _set_buttons(self) -> None:
        super()._set_buttons()
        for button in self._starters:
            button.disabled = button.disabled or not self.strategies
        self._run.disabled = self._run.disabled or not self._fits

    def _fit_window(self) -> None:
        """Let the window go to the last row and channel; both move at once, for one redraw."""
        with self.problems_shown(), self.hold_trait_notifications():
            rows, channels = self.matrix.weights.shape
            fit_window(self._controls, (rows, channels), _WINDOW)

    def _show_layers(self, job: Job) -> None:
        state, found, frame = state_of(job), self._network, self.layers_frame
        now = f" Now {html.escape(found.doing)}." if state == "Running" and found.doing else ""
        parts = "layers" if self._axes is None else "axes"
        self._status.value = f"Whole network: {_doing(state, job, found.done, f'{found.of} {parts}')}{now}"
        self._save_all.disabled = state == "Running" or not found.plans
        if frame.empty:
            return
        frame = frame.assign(permuted_lost_percent=frame["permuted_lost_percent"].fillna(frame["lost_percent"]))
        shares = frame["total"] / frame["total"].sum()
        lost, permuted = (float((frame[name] * shares).sum()) for name in ("lost_percent", "permuted_lost_percent"))
        how = "orders shared as sl.permute does" if self._axes else "each by itself, so at most"
        so_far = " so far" if found.done < found.of else ""  # a layer that is still to come counts as it is
        self._layers_line.value = (
            f"{len(frame)} layers together, {how}: lost <b>{lost:.2f} %</b> as trained, "
            f"<b>{permuted:.2f} %</b> permuted{so_far}."
        )
        text = "Points of its magnitude that every layer loses less, the largest gain first"
        self._layers_picture.show(self.layers_figure, text, zoom="x", of=self.pattern, chosen=self.layer)

    def _forget(self, change: Any) -> None:
        """Another layer or pattern: what was found belongs to the one before, and of the network to the pattern."""
        if change["name"] == "pattern" or self._job is not self._network_job:
            self.stop()
        self._clear_search()
        self._about.value, self._status.value = "", "Ready."
        self._fit_window()
        if change["name"] == "pattern":
            self._controls["layer"].relabel(self._labels(self.pattern))
            self._forget_network()
        elif not self.layers_frame.empty:
            self._layers_picture.show(self.layers_figure, self._layers_picture.text, zoom="x", of=self.pattern)
        with self.problems_shown():
            self._about.value = html.escape(self.matrix.about)
            self._require_groups()
        self._fits = not self.problem
        self._set_buttons()
        if not self._fits:
            self._status.value = ""

    def _clear_search(self) -> None:
        """Nothing is found."""
        self._traces = []
        self._save.disabled = True
        self._best_line.value = self._saved.value = ""
        for picture in (self._traces_picture, self._groups_picture, self._consumers_picture, self._order_picture):
            picture.clear()

    def _forget_network(self) -> None:
        self._network = logic.NetworkSearch()
        self._layers_picture.clear()
        self._layers_line.value = self._network_saved.value = ""
        self._save_all.disabled = True


def _doing(state: str, job: Job, done: int, of: object) -> str:
    return f"{state}, {done} of {of}, {job.seconds:.1f} s."


def _say_saved(line: ipywidgets.HTML, save: Callable[[str], Path], file: str) -> None:
    """Save, and say beside the button where, and whether something else was there, or why not."""
    before, folder = Path(file).is_file(), Path(file).expanduser().parent
    try:
        if not folder.is_dir():
            raise ValueError(f"not saved: there is no folder {folder}")
        line.value = html.escape(f"Saved in {save(file)}{', in place of what was there' if before else ''}.")
    except (ValueError, OSError) as error:
        line.value = as_problem(in_words(error))


def _choices(
    model_or_matrix: nn.Module | torch.Tensor | NDArray[Any], saliency: ModelSaliency, axes: NetworkAxes | None
) -> dict[str, Callable[[str], logic.Matrix | None]]:
    """What can be searched, by name: a function of the pattern for each, called when it is chosen."""
    if not isinstance(model_or_matrix, (torch.Tensor, np.ndarray)):
        model = as_eager(model_or_matrix, "PermutationGain, if not a weight as a tensor or an array,")
        layers = {
            name: partial(_layer_matrix, model, layer, saliency) for name, layer in choosable_layers(model).items()
        }
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


def _searched_text(pattern: AnyPattern) -> str:
    """The text of a pattern that orders are searched for. Raises ``ValueError`` for another."""
    try:
        chosen = searched_pattern(pattern)
    except ValueError as error:
        raise ValueError(
            f"no orders are searched for {pattern!r}: write N:M, e.g. '2:4', or masks both ways, e.g. 'm4n2_2d_best'"
        ) from error
    judge_of(chosen)
    return str(chosen)


def _layer_matrix(model: nn.Module, layer: LayerWeight, saliency: ModelSaliency, pattern: str) -> logic.Matrix:
    return logic.Matrix.of_layer(model, layer, saliency)
