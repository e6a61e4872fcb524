"""What patterns take from every layer, and what a permutation wins back."""

from __future__ import annotations

import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator

from sparselab.plots.columns import finite_rows, require_columns
from sparselab.plots.style import COLOURS, MARKERS, Figure, cycle, looks, plain_numbers, style


def loss_by_layer(frame: pd.DataFrame) -> Figure:
    """Magnitude lost by every layer, one series per pattern.

    ``frame`` has ``layer, pattern, lost_percent``, or is what ``magnitude_report`` returned, whose pattern is in
    ``frame.attrs``; layers are drawn top to bottom in the order in which they come,
    NaN (not eligible) is left out. Raises ``ValueError`` when a column is missing or there is nothing to draw.
    """
    if "pattern" in frame.attrs and "pattern" not in frame.columns:
        frame = frame.assign(pattern=frame.attrs["pattern"])
    require_columns(frame, ("layer", "pattern", "lost_percent"), "loss_by_layer")
    drawn = finite_rows(frame, ["lost_percent"], "loss_by_layer")
    layers = [layer for layer in dict.fromkeys(frame["layer"]) if (drawn["layer"] == layer).any()]
    height = {layer: position for position, layer in enumerate(layers)}
    with style():
        figure = Figure(figsize=(8.0, 1.4 + 0.19 * len(layers)), layout="constrained")
        axes = figure.add_subplot()
        for (pattern, rows), colour, marker in zip(
            drawn.groupby("pattern", sort=False), cycle(COLOURS), cycle(MARKERS)
        ):
            axes.plot(rows["lost_percent"], rows["layer"].map(height), marker, color=colour, ms=4.5, label=str(pattern))
        axes.set_yticks(range(len(layers)), [_short(layer) for layer in layers], fontsize=7.5)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("magnitude lost, % of the layer's sum of |w|")
        axes.set_title("What each pattern takes from each layer")
        figure.legend(title="pattern", ncols=min(4, drawn["pattern"].nunique()), loc="outside lower center")
    return figure


def efficacy_by_layer(frame: pd.DataFrame) -> Figure:
    """Magnitude lost by every layer before and after its permutation, with the ideal that no order can beat.

    ``frame`` has ``layer, lost_percent, permuted_lost_percent, ideal_lost_percent``.
    """
    columns = ("layer", "lost_percent", "permuted_lost_percent", "ideal_lost_percent")
    require_columns(frame, columns, "efficacy_by_layer")
    frame = finite_rows(frame, columns[1:], "efficacy_by_layer")
    heights = range(len(frame))
    with style():
        figure = Figure(figsize=(8.0, 1.4 + 0.19 * len(frame)), layout="constrained")
        axes = figure.add_subplot()
        axes.hlines(heights, frame["permuted_lost_percent"], frame["lost_percent"], color="#999999", lw=1.2)
        for column, label, colour, marker in (
            ("lost_percent", "as trained", COLOURS[1], "s"),
            ("permuted_lost_percent", "channels permuted", COLOURS[0], "o"),
            ("ideal_lost_percent", "ideal (best of every row)", "#666666", "|"),
        ):
            axes.plot(frame[column], heights, marker, color=colour, ms=5, label=label)
        axes.set_yticks(heights, [_short(layer) for layer in frame["layer"]], fontsize=7.5)
        axes.set_ylim(len(frame) - 0.4, -0.6)
        axes.set_xlabel("magnitude lost, % of the layer's sum of |w|")
        axes.set_title("What a permutation of the input channels wins back")
        figure.legend(ncols=3, loc="outside lower center")
    return figure


def _short(layer: str) -> str:
    return layer.removesuffix(".weight")


def error_by_layer(frame: pd.DataFrame) -> Figure:
    """The reconstruction error of every pruned weight, on the inputs of the dense and of the pruned model.

    ``frame`` is that of ``sl.prune``: ``layer, block, dense_error_percent, pruned_error_percent``. Weights of one name
    in different blocks are one series along the depth of the model. The caption is the frame's ``attrs["protocol"]``.
    """
    columns = ("dense_error_percent", "pruned_error_percent")
    require_columns(frame, ("layer", "block", *columns), "error_by_layer")
    drawn = finite_rows(frame, list(columns), "error_by_layer")
    depth = {block: number for number, block in enumerate(dict.fromkeys(drawn["block"]))}
    alone = len(depth) == 1
    own = [_short(layer.removeprefix(f"{block}.")) for layer, block in zip(drawn["layer"], drawn["block"])]
    place = range(len(drawn)) if alone else drawn["block"].map(depth)
    points = drawn.assign(own="" if alone else own, place=list(place))
    with style():
        figure = Figure(figsize=(9.0, 4.2), layout="constrained")
        sides = figure.subplots(1, 2, sharey=True)
        for axes, column, title in zip(sides, columns, ("inputs of the dense model", "inputs of the pruned model")):
            for (name, rows), (colour, marker) in zip(points.groupby("own", sort=False), looks()):
                axes.plot(rows["place"], rows[column], marker=marker, color=colour, ms=3.5, lw=1, label=str(name))
            axes.set_title(title)
            axes.set_xlabel("layer" if alone else "block")
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            plain_numbers(axes.yaxis)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        sides[0].set_ylabel("reconstruction error, %")
        if not alone:
            handles, labels = sides[0].get_legend_handles_labels()
            figure.legend(handles, labels, ncols=min(4, len(handles)), loc="outside lower center")
        said = frame.attrs.get("protocol", {})
        if said:
            orders = "" if said["permutation"] == "None" else f", channels in orders by {said['permutation']}"
            which = "pruned so far" if said["sequential"] else "dense"
            caption = f"{said['pattern']} by {said['pruner_options']}{orders}; {said['batches']} batches, inputs of the model {which}"
            figure.suptitle(caption, fontsize=9)
    return figure
