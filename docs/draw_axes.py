"""Draws docs/images/axes.png: the axes of a small network, found by the analysis itself, before and after a move.

Run from the repository's root: ``python docs/draw_axes.py``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor, nn

from sparselab.network.analysis import Analysis, analyse
from sparselab.network.free_axes import Axis, coordinates, free_axes
from sparselab.network.plan import Plan

COLOURS = ("#c8553d", "#2a7f9e", "#7a9e3b", "#8a5aa8")
SHOWN = ("stem.weight", "norm.weight", "up.weight", "down.weight", "head.weight")


class Block(nn.Module):
    """A stem, a norm and a residual block: the example of docs/axes.md."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 4)`` to ``(batch, 3)``."""
        x = self.norm(self.stem(x))
        return self.head(x + self.down(F.relu(self.up(x))))


def draw(path: Path) -> None:
    """Write the picture."""
    torch.manual_seed(1)
    model = Block()
    with torch.no_grad():
        model.norm.weight.uniform_(-1, 1)
    analysis = analyse(model, torch.randn(2, 4))
    axes = free_axes(analysis)
    rng = np.random.default_rng(0)
    orders = {axis: rng.permutation(axis.size)[None] for axis in axes}
    figure = plt.figure(figsize=(13, 6.4), layout="constrained")
    for part, title in zip(figure.subfigures(2), ("before", "after: another order, the same function"), strict=True):
        part.suptitle(title, x=0.01, ha="left", fontweight="bold")
        for panel, name in zip(part.subplots(1, len(SHOWN), width_ratios=[5, 2, 9, 13, 9]), SHOWN, strict=True):
            _tensor(panel, name, model, analysis, axes, orders if title != "before" else {})
        Plan.from_orders(analysis, orders).apply(model)
    figure.savefig(path, dpi=110)


def _tensor(
    panel: Axes,
    name: str,
    model: nn.Module,
    analysis: Analysis,
    axes: list[Axis],
    orders: dict[Axis, np.ndarray],
) -> None:
    """One tensor in grey; along each dimension a strip in its axis's colour, numbered by the units standing there."""
    member = next(member for member in analysis.members if name in member.names)
    values = model.get_parameter(name).detach().numpy()
    panel.imshow(np.atleast_2d(values.T).T, cmap="Greys", vmin=-0.8, vmax=0.8)
    panel.set_title(name, fontsize=11)
    panel.set_axis_off()
    for dim, made_of in enumerate(member.dims):
        leaf = coordinates((made_of,))[0].leaf
        number = next((k for k, axis in enumerate(axes) if leaf in axis.leaves), None)
        colour = "#bbbbbb" if number is None else COLOURS[number]
        order = np.arange(leaf.size) if number is None else orders.get(axes[number], np.arange(leaf.size)[None])[0]
        for position, unit in enumerate(order):
            x, y = (-1.1, position) if dim == 0 else (position, -1.1)
            panel.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, color=to_rgb(colour), ec="white", clip_on=False))
            panel.text(x, y, str(unit), color="white", ha="center", va="center", fontsize=7)
    panel.set_xlim(-1.7, (values.shape[1] if values.ndim > 1 else 1) - 0.4)
    panel.set_ylim(values.shape[0] - 0.4, -1.7)


if __name__ == "__main__":
    draw(Path(__file__).parent / "images" / "axes.png")
